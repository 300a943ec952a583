"""SeemoRe-B ×4 as published.

505,952 parameters; 26.27 GMACs for a 1280×720 output.
Reaches, in the paper, PSNR: Urban100 26.52 dB, Manga109 31.12.
Costs 500,000 steps of 32 patches of 64×64 LR pixels: 29.9·10¹⁵ MACs forward, about twice that backward;
the runs of ×2 and ×3, from whose weights it starts, come before.
"""

from ml_collections import ConfigDict

from configs.release import recipe


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return recipe("B", 4)
