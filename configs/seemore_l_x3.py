"""SeemoRe-L ×3 as published.

959,803 parameters; 87.74 GMACs for a 1280×720 output.
No published figure is known to us for this configuration.
Costs 500,000 steps of 32 patches of 64×64 LR pixels: 56.2·10¹⁵ MACs forward, about twice that backward;
the run of ×2, from whose weights it starts, comes before.
"""

from ml_collections import ConfigDict

from configs.release import recipe


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return recipe("L", 3)
