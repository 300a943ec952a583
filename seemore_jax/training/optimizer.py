"""Adam and its learning-rate schedules."""

import optax

from seemore_jax.training.experiment import Experiment

# Where the release halves the learning rate: at 250k, 400k, 450k and 475k of its 500k steps.
HALVINGS = (0.5, 0.8, 0.9, 0.95)


def learning_rate(experiment: Experiment) -> optax.Schedule:
    """Returns the learning rate as a function of the step, from 0 to `experiment.num_steps`.

    The schedule "halving" is the release's: the rate is halved after each share of the run in `HALVINGS`. "cosine"
    falls to `experiment.final_learning_rate`. Before either, the rate rises linearly for `experiment.warmup_steps`.
    """
    steps = experiment.num_steps - experiment.warmup_steps
    if experiment.schedule == "halving":
        milestones: dict[int, float] = {}
        for fraction in HALVINGS:  # in a very short run several may fall on one step
            step = round(fraction * experiment.num_steps) - experiment.warmup_steps
            milestones[step] = milestones.get(step, 1.0) / 2
        main = optax.piecewise_constant_schedule(experiment.learning_rate, milestones)
    else:
        main = optax.cosine_decay_schedule(
            experiment.learning_rate, max(steps, 1), alpha=experiment.final_learning_rate / experiment.learning_rate
        )
    if not experiment.warmup_steps:
        return main
    # The first step takes 1/warmup_steps of the rate, not nothing.
    highest, warmup = experiment.learning_rate, experiment.warmup_steps
    rise = optax.linear_schedule(highest / warmup, highest, warmup)
    return optax.join_schedules([rise, main], [warmup])


def make_optimizer(experiment: Experiment) -> optax.GradientTransformation:
    """Returns Adam with betas (0.9, 0.99), as in the release, and clipping by the global norm if configured."""
    adam = optax.adam(learning_rate(experiment), b1=0.9, b2=0.99, eps=1e-8)
    if not experiment.gradient_clip:
        return adam
    return optax.chain(optax.clip_by_global_norm(experiment.gradient_clip), adam)
