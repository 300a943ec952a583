"""SeemoRe-T ×3, as it comes with the package: `T-x3`, from `T-x2`."""

from ml_collections import ConfigDict

from configs.bundled import bundled


def get_config() -> ConfigDict:
    """The experiment's configuration."""
    config = bundled(3)
    config.num_steps = 1_000
    config.learning_rate = 7e-4
    config.ema_decay = 0.99
    return config
