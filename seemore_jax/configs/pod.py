"""The published training of SeemoRe-T ×4 as a TPU pod should run it: bfloat16, the data on the chips, a large batch."""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def pod_recipe(chips: int) -> ConfigDict:
    """Returns the configuration of an experiment for a number of chips.

    It processes the 16 million patches of the recipe in larger batches, with the rate by the rule of the square root,
    a warm-up and a limit of the gradient, as docs/scaling.md explains. This schedule has not been tried.

    Args:
      chips: 8 (256 patches in each step) or 256 (1,024 patches).
    """
    batch_size, learning_rate = {8: (256, 2.8e-3), 256: (1024, 5.7e-3)}[chips]
    config = recipe("T", 4)
    config.compute_dtype, config.precision = "bfloat16", "default"
    config.data_on_device = True
    published = config.batch_size * config.num_steps
    config.batch_size = batch_size
    config.num_steps = published // batch_size
    config.learning_rate = learning_rate
    config.warmup_steps = 1_000
    config.gradient_clip = 1.0
    config.checkpoint_every = config.validate_every = 1_000
    return config
