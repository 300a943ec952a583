"""SeemoRe-T ×3 as published.

224,979 parameters; 20.19 GMACs for a 1280×720 output.
Reaches, in the paper, PSNR: Set5 34.46 dB, Set14 30.44, B100 29.15, Urban100 28.27, Manga109 33.92.
Costs 500,000 steps of 32 patches of 64×64 LR pixels: 12.9·10¹⁵ MACs forward, about twice that backward;
the run of ×2, from whose weights it starts, comes before.
"""

from ml_collections import ConfigDict

from configs.release import recipe


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return recipe("T", 3)
