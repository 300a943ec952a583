"""SeemoRe-T ×4, as it comes with the package: `T-x4`, from `T-x3`."""

from ml_collections import ConfigDict

from configs.bundled import bundled


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    return bundled(4)
