"""SeemoRe-T ×3, as it comes with the package: `T-x3`, from `T-x2`."""

from ml_collections import ConfigDict

from configs.bundled import bundled


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return bundled(3)
