"""The published training of SeemoRe-T ×4.

231,804 parameters; 11.78 GMACs for a 1280×720 output.
PSNR in the paper: Set5 32.31 dB, Set14 28.72, B100 27.65, Urban100 26.23, Manga109 30.82.
The training takes 500,000 steps of 32 patches of 64×64 LR pixels: 13.4·10¹⁵ MACs forward, and about twice that
backward. It starts from the weights of ×3, so ×2 and ×3 must be trained first.
"""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return recipe("T", 4)
