"""The training of the bundled weights `T-x2`: SeemoRe-T ×2."""

from ml_collections import ConfigDict

from seemore_jax.configs.bundled import bundled


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return bundled(2)
