"""The published training of SeemoRe-T ×3.

224,979 parameters; 20.19 GMACs for a 1280×720 output.
PSNR in the paper: Set5 34.46 dB, Set14 30.44, B100 29.15, Urban100 28.27, Manga109 33.92.
The training takes 500,000 steps of 32 patches of 64×64 LR pixels: 12.9·10¹⁵ MACs forward, and about twice that
backward. It starts from the weights of ×2, which must be trained first.
"""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return recipe("T", 3)
