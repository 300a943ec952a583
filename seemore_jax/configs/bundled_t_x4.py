"""The training of the bundled weights `T-x4`: SeemoRe-T ×4, which starts from `T-x3`."""

from ml_collections import ConfigDict

from seemore_jax.configs.bundled import bundled


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return bundled(4)
