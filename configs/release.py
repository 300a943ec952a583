"""The recipe of the release, from which the nine published configurations are made."""

from ml_collections import ConfigDict


def recipe(variant: str, scale: int) -> ConfigDict:
    """The experiment of one published configuration: `variant` T, B or L at `scale` 2, 3 or 4."""
    config = ConfigDict()
    config.variant = variant
    config.scale = scale
    config.compute_dtype = "float32"  # or bfloat16
    config.precision = "highest"  # float32 on every backend; "default" is faster on TPU and GPU
    return config
