"""SeemoRe-L ×2 as published.

953,308 parameters; 195.5 GMACs for a 1280×720 output.
Reaches, in the paper, PSNR: Urban100 32.87 dB, Manga109 39.49.
"""

from ml_collections import ConfigDict

from configs.release import recipe


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return recipe("L", 2)
