"""The experiments that trained the bundled weights for JPEG files, such as `T-x4-jpeg`."""

from ml_collections import ConfigDict

from seemore_jax.configs.bundled import bundled


def bundled_jpeg(scale: int) -> ConfigDict:
    """Returns the experiment of SeemoRe-T for JPEG files at a scale of 2 or 4.

    It continues the bundled weights of the same scale, with LR patches that are stored as JPEG: with a quality between
    25 and 95, with and without chroma subsampling, but for one patch in ten. The data are those of `bundled`, and
    147 more photographs: `--source=photos` adds them to the command that prepares the data.
    """
    config = bundled(scale)
    config.init_from = f"T-x{scale}"
    config.degradation = "jpeg"
    config.jpeg_quality = (25, 95)
    config.jpeg_clean_share = 0.1
    config.validation_degradation = "jpeg:50"
    config.learning_rate = 4e-4
    config.num_steps = 2_000
    return config
