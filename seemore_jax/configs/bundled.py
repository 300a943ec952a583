"""The experiments that trained the bundled weights."""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def bundled(scale: int) -> ConfigDict:
    """Returns the configuration of SeemoRe-T for training on 2 CPU cores.

    It differs from the recipe of the release in four points: the data are 523 small photographs instead of DF2K; a
    batch has 8 patches of 32×32 LR pixels; the schedule is a cosine after a short warm-up; and the exported weights are
    the moving average of the parameters. ×3 starts from the bundled ×2, and ×4 from the bundled ×3. The model cards,
    such as `seemore_jax/weights/T-x2.md`, have the time and the scores of each training.

    This command prepares the data, in the folder with the photographs:

        python -m seemore_jax prepare image_folder --data_dir=data --source=bsds --source=t91 --halved_source=streets

    Args:
      scale: the factor of the upscaling: 2, 3 or 4.
    """
    config = recipe("T", scale)
    config.dataset = "image_folder"
    config.patch_size = 32
    config.batch_size = 8
    config.data_on_device = True
    config.num_steps = 12_000 if scale == 2 else 3_500
    config.learning_rate = 8e-4
    config.schedule = "cosine"
    config.warmup_steps = 100
    config.ema_decay = 0.999
    config.seed = 1
    config.init_from = f"T-x{scale - 1}" if scale > 2 else ""
    config.checkpoint_every = 500
    config.validate_every = 2_000
    config.log_every = 50
    return config
