"""The training of the bundled weights `T-x3`: SeemoRe-T ×3, which starts from `T-x2`."""

from ml_collections import ConfigDict

from seemore_jax.configs.bundled import bundled


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return bundled(3)
