"""SeemoRe-L ×2 as published.

953,308 parameters; 195.5 GMACs for a 1280×720 output.
Reaches, in the paper, PSNR: Urban100 32.87 dB, Manga109 39.49.
Costs 500,000 steps of 32 patches of 64×64 LR pixels: 55.6·10¹⁵ MACs forward, about twice that backward.
"""

from ml_collections import ConfigDict

from configs.release import recipe


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return recipe("L", 2)
