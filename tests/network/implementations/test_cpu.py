"""If these tests fail, the CPU's kernels differ from the plain network, or the network fails without them."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seemore_jax import SeemoRe, SeemoReConfig
from seemore_jax.network import implementations
from seemore_jax.network.implementations import cpu, native, plain

SMALL = SeemoReConfig.variant("T", 2, embedding_dim=10, num_layers=1)

needs_kernels = pytest.mark.needs("compiler")


def value_and_gradients(config: SeemoReConfig, lr: jax.Array, implementation: str) -> Any:
    """Returns output, routing, and gradients of all parameters and of the input, computed by one implementation."""
    config = dataclasses.replace(config, implementation=implementation)
    expected = {"cpu": cpu.apply_network, "plain": plain.apply_network}[implementation]
    assert implementations.chosen_implementation(config) is expected
    graph, parameters = nnx.split(SeemoRe(config, rngs=nnx.Rngs(3)))

    def loss(parameters: nnx.State, lr: jax.Array) -> tuple[jax.Array, Any]:
        sr, routing = nnx.merge(graph, parameters)(lr, return_routing=True)
        return jnp.sum(jnp.sin(5 * sr)), (sr, routing)

    gradients, (sr, routing) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(parameters, lr)
    return sr, routing, gradients


@needs_kernels
@pytest.mark.usefixtures("grouped_convolutions")
@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"num_layers": 2}, (2, 16, 16)),
        ({}, (1, 37, 45)),  # multiples neither of a vector nor of 4
        ({"embedding_dim": 36}, (3, 70, 19)),  # several strips of rows
        ({"use_shuffle": False, "recursive": 1, "topk": 2, "lr_space": "linear"}, (2, 21, 50)),
        ({"recursive": 0, "global_kernel_size": 5, "num_experts": 2, "embedding_dim": 7}, (1, 3, 5)),
        ({"rematerialize": True}, (2, 16, 17)),
        ({"embedding_dim": 4, "recursive": 0, "global_kernel_size": 33}, (1, 34, 35)),  # the longest filter
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_the_plain_network(fields: dict[str, Any], shape: tuple[int, ...]) -> None:
    config = dataclasses.replace(SMALL, **fields)
    lr = jax.random.uniform(jax.random.key(1), (*shape, 3))
    sr, routing, gradients = value_and_gradients(config, lr, "cpu")
    expected_sr, expected_routing, expected = value_and_gradients(config, lr, "plain")
    np.testing.assert_allclose(sr, expected_sr, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(routing.experts, expected_routing.experts)
    np.testing.assert_allclose(routing.probabilities, expected_routing.probabilities, rtol=1e-5)
    for (path, mine), theirs in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
    ):
        scale = float(jnp.linalg.norm(theirs)) + 1e-6
        assert float(jnp.linalg.norm(mine - theirs)) < 1e-5 * scale, jax.tree_util.keystr(path)


@needs_kernels
def test_the_kernels_are_what_a_cpu_gets() -> None:
    config = dataclasses.replace(SMALL, implementation="auto")
    assert implementations.chosen_implementation(config) is cpu.apply_network
    half = dataclasses.replace(config, compute_dtype="bfloat16")
    assert implementations.chosen_implementation(half) is cpu.apply_network


@needs_kernels
@pytest.mark.parametrize("recursive", [0, 1, 2])
def test_bfloat16_is_as_exact_as_float32(recursive: int) -> None:
    """XLA's bfloat16 is slower than float32 on a CPU, so that the kernels compute in float32: nothing is rounded."""
    config = dataclasses.replace(SMALL, recursive=recursive)
    lr = jax.random.uniform(jax.random.key(1), (2, 37, 41, 3))
    expected = value_and_gradients(config, lr, "plain")
    half = dataclasses.replace(config, compute_dtype="bfloat16")
    found, rounded = (value_and_gradients(half, lr, name) for name in ("cpu", "plain"))

    for name, pick in {"values": lambda result: result[0], "gradients": lambda result: result[2][1]}.items():
        error, other = (float(jnp.abs(pick(each) - pick(expected)).max()) for each in (found, rounded))
        assert error < other, name


@needs_kernels
def test_longer_filters_than_the_kernels_have_room_for_are_left_to_the_plain_network() -> None:
    for size, expected in [(33, cpu.apply_network), (35, plain.apply_network)]:
        config = dataclasses.replace(SMALL, implementation="auto", global_kernel_size=size)
        assert implementations.chosen_implementation(config) is expected


@needs_kernels
def test_the_same_sums_every_time() -> None:
    """Threads take the strips in any order. An exact resume of a training run needs identical bits in every order."""
    lr = jax.random.uniform(jax.random.key(1), (4, 70, 20, 3))
    first, second = (value_and_gradients(SMALL, lr, "cpu") for _ in range(2))
    for mine, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@needs_kernels
def test_extreme_values_are_those_of_gelu() -> None:
    """The test uses the smallest kernel with a GELU, with identity maps before and after it."""
    channels = 4
    values = jnp.asarray([-1e30, -100.0, -13.0, -4.0, -1e-3, 0.0, 1e-3, 4.0, 13.0, 100.0, 1e30, 1.0])
    x = jnp.broadcast_to(values[:, None], (1, 1, 12, channels))
    identity, zeros = jnp.eye(channels), jnp.zeros(channels)
    taps = jnp.zeros((3, channels)).at[1].set(1.0)
    expand = jnp.concatenate([identity, identity], 1)
    features, _, _ = cpu.operation("features_and_context")(
        cpu.image_layout(x.shape[1:3], SMALL, None).region,
        cpu.to_kernel_layout(x),
        expand,
        jnp.zeros(8),
        taps,
        zeros,
        taps,
        zeros,
    )
    gelu = jax.nn.gelu
    expected = gelu(gelu(values, approximate=False), approximate=False)
    np.testing.assert_allclose(cpu.from_kernel_layout(features, 12)[0, 0, :, 0], expected, rtol=1e-6, atol=2e-6)


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Prepares an installation that was made without a compiler."""
    monkeypatch.delenv("SEEMORE_NATIVE", raising=False)
    monkeypatch.setattr(native, "_compiled_folder", lambda: tmp_path)
    for function in ("level", "unavailable_reason", "available"):
        monkeypatch.setattr(native, function, getattr(native, function).__wrapped__)


@pytest.mark.usefixtures("without_kernels")
def test_without_kernels_the_plain_network_is_used_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert implementations.chosen_implementation(SMALL) is not cpu.apply_network
    (record,) = caplog.records
    assert "with a C++ compiler" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEMORE_NATIVE", "0")
    monkeypatch.setattr(native, "_opened", lambda *_: pytest.fail("loads a library"))
    assert not native.available.__wrapped__()
