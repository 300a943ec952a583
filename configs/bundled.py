"""The experiments behind the weights that come with the package."""

from ml_collections import ConfigDict

from configs.release import recipe


def bundled(scale: int) -> ConfigDict:
    """SeemoRe-T at `scale`, sized for 2 CPU cores.

    The release's recipe but for: 523 small photographs in place of DF2K, batches of 8 patches of 32×32 LR pixels, a
    cosine schedule after a short warm-up, and an average of the parameters, which is what is exported. ×3 starts from
    the bundled ×2, ×4 from the bundled ×3. What each took and reached is in its card, such as
    `seemore_jax/weights/T-x2.md`.
    The data, from the folder in which the photographs are:

        python -m seemore_jax prepare image_folder --data_dir=data --source=bsds --source=t91 --halved_source=streets
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
