"""SeemoRe-T ×2 for JPEG files: continues the bundled `T-x2`."""

from ml_collections import ConfigDict

from seemore_jax.configs.bundled_jpeg import bundled_jpeg


def get_config() -> ConfigDict:
    """Returns the experiment's configuration."""
    return bundled_jpeg(2)
