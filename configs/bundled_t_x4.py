"""SeemoRe-T ×4, as it comes with the package: `T-x4`, from `T-x3`."""

from ml_collections import ConfigDict

from configs.bundled import bundled


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    config = bundled(4)
    config.num_steps = 1_000
    config.learning_rate = 7e-4
    config.ema_decay = 0.99
    return config
