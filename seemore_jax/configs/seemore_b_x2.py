"""The published training of SeemoRe-B ×2.

490,364 parameters; 100.9 GMACs for a 1280×720 output.
PSNR in the paper: Urban100 32.52 dB, Manga109 39.30.
The training takes 500,000 steps of 32 patches of 64×64 LR pixels: 28.7·10¹⁵ MACs forward, and about twice that
backward.
"""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return recipe("B", 2)
