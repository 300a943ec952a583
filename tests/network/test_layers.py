"""If these fail, a layer is wrong, or the plain network computes something else when it is compiled for a GPU."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.network.layers import gelu, resize_bilinear
from seemore_jax.system.devices import compiling_for

# XLA then compiles faster.
FAST: dict[str, Any] = {"xla_backend_optimization_level": 0}


def test_gelu_is_exact_in_float32_and_rounded_once_in_bfloat16() -> None:
    x = np.linspace(-6, 6, 2001, dtype=np.float32)
    exact = np.array([value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x.tolist()])
    np.testing.assert_allclose(gelu(jnp.asarray(x)), exact, rtol=1e-5, atol=1e-6)
    half = jnp.asarray(x, jnp.bfloat16)
    wide = gelu(half.astype(jnp.float32)).astype(jnp.bfloat16)
    assert gelu(half).dtype == jnp.bfloat16
    np.testing.assert_array_equal(gelu(half).astype(np.float32), wide.astype(np.float32))


def test_the_derivative_of_gelu_is_that_of_its_definition() -> None:
    x = jnp.linspace(-5, 5, 101)
    found = jax.vmap(jax.grad(gelu))(x)
    expected = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False)))(x)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("factors", [(16, 16), (4, 7), (1, 3), (2, 1)], ids=str)
def test_a_gpu_enlarges_by_whole_factors_as_all_devices_resize(factors: tuple[int, int]) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 4))
    size = (5 * factors[0], 3 * factors[1])

    def value_and_gradient(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return resize_bilinear(x, *size), jax.grad(lambda x: jnp.sum(jnp.sin(resize_bilinear(x, *size))))(x)

    expected = value_and_gradient(x)
    with compiling_for("gpu"):
        found = value_and_gradient(x)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


def test_the_network_for_a_gpu_computes_the_same() -> None:
    """Compares values and gradients of the program for a GPU with those of grouped convolutions and products."""
    config = SeemoReConfig.variant("T", 2, num_layers=1, embedding_dim=8, implementation="plain")
    graph, parameters = nnx.split(SeemoRe(config, rngs=nnx.Rngs(0)))
    image = jax.random.uniform(jax.random.key(1), (2, 32, 16, 3))

    def loss(parameters: nnx.State) -> tuple[jax.Array, jax.Array]:
        sr = nnx.merge(graph, parameters)(image)
        return jnp.mean(jnp.sin(5 * sr)), sr

    results = []
    for backend in ("tpu", "gpu"):
        with compiling_for(backend):
            lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(parameters)
        compiled = lowered.compile(FAST)
        results.append(jax.tree.leaves(compiled(parameters)))
    for mine, other in zip(*results, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
