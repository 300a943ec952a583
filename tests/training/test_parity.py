"""If these fail, training is not that of the release, or an option of the optimization does not do what it says."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from benchmarks.release_training import release_loss
from seemore_jax import SeemoReConfig
from seemore_jax.configs.release import recipe
from seemore_jax.porting.names import to_torch
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.optimizer import learning_rate, make_optimizer
from seemore_jax.training.step import initial_state, make_mesh, make_train_step, to_devices
from tests.support.release import images, ported, release_model, to_nchw

# Small enough to compile in a moment, with every part of the network in it.
TINY = SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1)

STEPS = 20
DECAY = 0.6  # reached within these steps


def experiment(**fields: Any) -> Experiment:
    """The release's recipe, `STEPS` steps long, with some fields replaced."""
    config = recipe("T", 2)
    config.num_steps = STEPS
    config.update(fields)
    return Experiment.of(config)


def batch(number: int) -> tuple[np.ndarray, np.ndarray]:
    """LR (6, 20, 20, 3) and HR patches, uint8, of the colours to which the oracle's routers are fitted."""
    rng = np.random.default_rng(number)
    colors = images(6, 20, 20)
    lr = colors + rng.uniform(-0.05, 0.05, colors.shape)
    hr = lr.repeat(2, axis=1).repeat(2, axis=2)
    hr += rng.uniform(-0.1, 0.1, hr.shape)
    return to_uint8(lr), to_uint8(hr)


def to_uint8(image: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def loss_in_training(model: Any, lr: np.ndarray, hr: np.ndarray) -> torch.Tensor:
    """Returns the release's loss of a PyTorch network on uint8 patches."""
    return release_loss(model(to_nchw(lr).float() / 255), to_nchw(hr).float() / 255)


class Run(NamedTuple):
    """What a run reported and held: after each step, but parameters and averages also before the first."""

    losses: list[float]
    expert_usage: np.ndarray
    parameters: list[Any]
    averages: list[Any]
    first_gradients: dict[str, np.ndarray]
    first_gradient_norm: float


@functools.cache
def run() -> Run:
    """`STEPS` steps here, with a moving average."""
    return take_steps(STEPS, ema_decay=DECAY)


def take_steps(count: int, **options: Any) -> Run:
    graph, parameters = nnx.split(ported(release_model(TINY), TINY))
    mesh, optimizer = make_mesh(), make_optimizer(experiment())
    state = initial_state(parameters, optimizer, average="ema_decay" in options, mesh=mesh)
    step = make_train_step(graph, optimizer, mesh, **options)
    states, metrics = [jax.device_get(state)], []
    for number in range(count):
        stop = np.zeros(jax.device_count(), np.float32)
        state, reported = step(state, *(to_devices(mesh, rows) for rows in (*batch(number), stop)))
        states.append(jax.device_get(state))
        metrics.append(reported)
    assert [int(state.step) for state in states] == list(range(count + 1))
    # Adam's first moment starts at nothing and takes a tenth of the first gradient.
    first_moment = optax.tree.get(states[1].optimizer, "mu")
    return Run(
        losses=[float(m.loss.total) for m in metrics],
        expert_usage=np.stack([m.expert_usage for m in metrics]),
        parameters=[state.parameters for state in states],
        averages=[state.average for state in states if state.average is not None],
        first_gradients={name: 10 * array for name, array in to_torch(nnx.merge(graph, first_moment)).items()},
        first_gradient_norm=float(metrics[0].gradient_norm),
    )


@pytest.mark.thorough
def test_losses_of_20_steps_are_those_of_pytorch() -> None:
    model = release_model(TINY).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[10, 16, 18, 19], gamma=0.5)
    losses = []
    for number in range(STEPS):
        optimizer.zero_grad()
        loss = loss_in_training(model, *batch(number))
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    np.testing.assert_allclose(run().losses, losses, rtol=1e-4)
    assert losses[-1] < 0.8 * losses[0]  # there was something to compare
    # In the first step, to which the routers are fitted, every expert took part.
    assert run().expert_usage.shape == (STEPS, TINY.num_layers, TINY.num_experts)
    np.testing.assert_allclose(run().expert_usage[0], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(run().expert_usage.sum(axis=-1), 1, rtol=1e-6)


def test_gradients_are_those_of_pytorch() -> None:
    release = release_model(TINY).train()
    loss_in_training(release, *batch(0)).backward()
    expected = {name: parameter.grad.numpy() for name, parameter in release.named_parameters()}
    assert_close(run().first_gradients, expected, rtol=1e-4)
    norm = np.sqrt(sum(np.sum(np.square(gradient, dtype=np.float64)) for gradient in expected.values()))
    assert run().first_gradient_norm == pytest.approx(norm, rel=1e-4)


@pytest.mark.thorough
def test_accumulating_changes_nothing() -> None:
    accumulated = take_steps(1, accumulate=2)
    assert_close(accumulated.first_gradients, run().first_gradients, rtol=1e-5)
    assert accumulated.losses[0] == pytest.approx(run().losses[0], rel=1e-6)
    np.testing.assert_allclose(accumulated.expert_usage[0], run().expert_usage[0], rtol=1e-6)
    assert accumulated.averages == []  # off by default


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol: float) -> None:
    """Tensor by tensor, relative to the largest element of each."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=rtol * np.abs(tensor).max() + 1e-9, err_msg=name)


def test_moving_average_follows_its_formula() -> None:
    average = run().averages[0]
    for number, (parameters, found) in enumerate(zip(run().parameters[1:], run().averages[1:], strict=True)):
        decay = min(DECAY, (1 + number) / (10 + number))
        average = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, average, parameters)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, average)
    jax.tree.map(np.testing.assert_array_equal, run().averages[0], run().parameters[0])


def torch_rates(schedule: str, steps: int) -> list[float]:
    """The learning rates of PyTorch's scheduler, from 1e-3 on."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-3)
    if schedule == "halving":
        milestones = [steps // 100 * percent for percent in (50, 80, 90, 95)]
        scheduler: Any = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5)
    else:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=1e-6)
    rates = []
    for _ in range(steps + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", ["halving", "cosine"])
def test_schedules_are_those_of_pytorch(schedule: str) -> None:
    rates = jax.vmap(learning_rate(experiment(schedule=schedule, num_steps=300)))(np.arange(301))
    # In float32 the cosine's end is a difference of nearly equal numbers.
    np.testing.assert_allclose(rates, torch_rates(schedule, 300), rtol=1e-6, atol=1e-9)


def test_published_milestones() -> None:
    rate = learning_rate(Experiment.of(recipe("T", 4)))
    for milestone, factor in ((250_000, 1), (400_000, 1 / 2), (450_000, 1 / 4), (475_000, 1 / 8)):
        assert float(rate(milestone - 1)) == pytest.approx(1e-3 * factor)
        assert float(rate(milestone)) == pytest.approx(1e-3 * factor / 2)


def test_cosine_ends_at_its_final_rate() -> None:
    rate = learning_rate(experiment(schedule="cosine", learning_rate=2e-3, final_learning_rate=1e-4))
    assert [float(rate(step)) for step in (0, STEPS // 2, STEPS)] == pytest.approx([2e-3, 1.05e-3, 1e-4])


def test_warm_up_rises_evenly_and_leaves_the_end_where_it_was() -> None:
    halving = jax.vmap(learning_rate(experiment(warmup_steps=4)))(np.arange(STEPS + 1))
    np.testing.assert_allclose(halving[0], 1e-3 / 4, rtol=1e-6)
    np.testing.assert_allclose(np.diff(halving[:5]), (1e-3 - 1e-3 / 4) / 4, rtol=1e-4)
    np.testing.assert_allclose(halving[4:], jax.vmap(learning_rate(experiment()))(np.arange(STEPS + 1))[4:])
    cosine = learning_rate(experiment(warmup_steps=4, schedule="cosine"))
    assert [float(cosine(step)) for step in (0, 4, STEPS)] == pytest.approx([1e-3 / 4, 1e-3, 1e-6])


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_optimizer_is_pytorchs_adam_with_and_without_clipping(clip: float) -> None:
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 4), (5,))]
    # Norms on both sides of the limit: clipping changes some gradients and not others.
    scales = (0.01, 1.0, 0.1, 10.0, 0.03, 0.3)
    gradients = [[scale * rng.normal(size=a.shape).astype(np.float32) for a in start] for scale in scales]

    tensors = [torch.tensor(array, requires_grad=True) for array in start]
    adam = torch.optim.Adam(tensors, lr=1e-3, betas=(0.9, 0.99))
    for gradient in gradients:
        for tensor, part in zip(tensors, gradient, strict=True):
            tensor.grad = torch.tensor(part)
        if clip:
            torch.nn.utils.clip_grad_norm_(tensors, clip)
        adam.step()

    optimizer = make_optimizer(experiment(gradient_clip=clip, num_steps=1000))
    update: Any = jax.jit(optimizer.update)
    parameters: Any = start
    state = optimizer.init(start)
    for gradient in gradients:
        updates, state = update(gradient, state)
        parameters = optax.apply_updates(parameters, updates)
    for mine, tensor, first in zip(parameters, tensors, start, strict=True):
        np.testing.assert_allclose(mine - first, tensor.detach().numpy() - first, rtol=0, atol=1e-6)
