"""The published training of SeemoRe-L ×2.

953,308 parameters; 195.5 GMACs for a 1280×720 output.
PSNR in the paper: Urban100 32.87 dB, Manga109 39.49.
The training takes 500,000 steps of 32 patches of 64×64 LR pixels: 55.6·10¹⁵ MACs forward, and about twice that
backward.
"""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return recipe("L", 2)
