"""SeemoRe-T ×2 as published.

220,104 parameters; 44.83 GMACs for a 1280×720 output.
Reaches, in the paper, PSNR: Set5 38.06 dB, Set14 33.65, B100 32.23, Urban100 32.22, Manga109 39.01.
Costs 500,000 steps of 32 patches of 64×64 LR pixels: 12.8·10¹⁵ MACs forward, about twice that backward.
"""

from ml_collections import ConfigDict

from configs.release import recipe


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return recipe("T", 2)
