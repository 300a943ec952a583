"""The published training of SeemoRe-T ×2.

220,104 parameters; 44.83 GMACs for a 1280×720 output.
PSNR in the paper: Set5 38.06 dB, Set14 33.65, B100 32.23, Urban100 32.22, Manga109 39.01.
The training takes 500,000 steps of 32 patches of 64×64 LR pixels: 12.8·10¹⁵ MACs forward, and about twice that
backward.
"""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return recipe("T", 2)
