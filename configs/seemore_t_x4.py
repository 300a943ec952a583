"""SeemoRe-T ×4 as published.

231,804 parameters; 11.78 GMACs for a 1280×720 output.
Reaches, in the paper, PSNR: Set5 32.31 dB, Set14 28.72, B100 27.65, Urban100 26.23, Manga109 30.82.
Costs 500,000 steps of 32 patches of 64×64 LR pixels: 13.4·10¹⁵ MACs forward, about twice that backward;
the runs of ×2 and ×3, from whose weights it starts, come before.
"""

from ml_collections import ConfigDict

from configs.release import recipe


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return recipe("T", 4)
