"""SeemoRe-B ×2 as published.

490,364 parameters; 100.9 GMACs for a 1280×720 output.
Reaches, in the paper, PSNR: Urban100 32.52 dB, Manga109 39.30.
Costs 500,000 steps of 32 patches of 64×64 LR pixels: 28.7·10¹⁵ MACs forward, about twice that backward.
"""

from ml_collections import ConfigDict

from configs.release import recipe


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return recipe("B", 2)
