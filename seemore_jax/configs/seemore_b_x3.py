"""The published training of SeemoRe-B ×3.

496,859 parameters; 45.38 GMACs for a 1280×720 output.
There is no known published PSNR for this configuration.
The training takes 500,000 steps of 32 patches of 64×64 LR pixels: 29.0·10¹⁵ MACs forward, and about twice that
backward. It starts from the weights of ×2, which must be trained first.
"""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return recipe("B", 3)
