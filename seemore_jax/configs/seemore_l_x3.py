"""The published training of SeemoRe-L ×3.

959,803 parameters; 87.74 GMACs for a 1280×720 output.
There is no known published PSNR for this configuration.
The training takes 500,000 steps of 32 patches of 64×64 LR pixels: 56.2·10¹⁵ MACs forward, and about twice that
backward. It starts from the weights of ×2, which must be trained first.
"""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return recipe("L", 3)
