"""Adam and its learning-rate schedules, from an experiment's configuration."""

import optax
from ml_collections import ConfigDict

from seemore_jax.errors import InputError

# Where the release halves the learning rate: at 250k, 400k, 450k and 475k of its 500k steps.
HALVINGS = (0.5, 0.8, 0.9, 0.95)
SCHEDULES = ("halving", "cosine")


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """The learning rate as a function of the step, from 0 to `config.num_steps`.

    "halving" is the release's: half as much from each of `HALVINGS` of the run on. "cosine" falls to
    `config.final_learning_rate`. Before either, `config.warmup_steps` steps rise linearly from nothing.
    """
    steps = config.num_steps - config.warmup_steps
    if config.schedule == "halving":
        milestones: dict[int, float] = {}
        for fraction in HALVINGS:  # in a very short run several may fall on one step
            step = round(fraction * config.num_steps) - config.warmup_steps
            milestones[step] = milestones.get(step, 1.0) / 2
        main = optax.piecewise_constant_schedule(config.learning_rate, milestones)
    elif config.schedule == "cosine":
        main = optax.cosine_decay_schedule(
            config.learning_rate, max(steps, 1), alpha=config.final_learning_rate / config.learning_rate
        )
    else:
        raise InputError(f"config: schedule must be one of {', '.join(SCHEDULES)}, not {config.schedule!r}")
    if not config.warmup_steps:
        return main
    # The first step takes 1/warmup_steps of the rate, not nothing.
    rise = optax.linear_schedule(config.learning_rate / config.warmup_steps, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([rise, main], [config.warmup_steps])


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam with betas (0.9, 0.99), as the release; with clipping by the global norm if configured."""
    adam = optax.adam(learning_rate(config), b1=0.9, b2=0.99, eps=1e-8)
    if not config.gradient_clip:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.gradient_clip), adam)
