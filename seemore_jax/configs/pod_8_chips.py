"""The training of SeemoRe-T ×4 on 8 TPU chips, such as v5e:2x4."""

from ml_collections import ConfigDict

from seemore_jax.configs.pod import pod_recipe


def get_config() -> ConfigDict:
    """Returns the configuration of the experiment."""
    return pod_recipe(8)
