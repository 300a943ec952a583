"""SeemoRe-B ×4 as published.

505,952 parameters; 26.27 GMACs for a 1280×720 output.
Reaches, in the paper, PSNR: Urban100 26.52 dB, Manga109 31.12.
"""

from ml_collections import ConfigDict

from configs.release import recipe


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return recipe("B", 4)
