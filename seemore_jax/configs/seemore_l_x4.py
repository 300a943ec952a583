"""The published training of SeemoRe-L ×4.

968,896 parameters; 49.94 GMACs for a 1280×720 output.
PSNR in the paper: Urban100 26.79 dB, Manga109 31.48.
The training takes 500,000 steps of 32 patches of 64×64 LR pixels: 56.8·10¹⁵ MACs forward, and about twice that
backward. It starts from the weights of ×3, so ×2 and ×3 must be trained first.
"""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return recipe("L", 4)
