"""Times of a fused implementation and of the plain one, on a small network: whether the kernels are worth it."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import plain
from seemore_jax.network.seemore import SeemoReNetwork

_RUNS = 20
_SIZE = (256, 256)  # of the image, in pixels: enough for all multiprocessors of a GPU


def median_times(
    name: str,
    apply_network: Callable[..., Any],
    config: SeemoReConfig,
    device: jax.Device,
    size: tuple[int, int] = _SIZE,
) -> dict[str, float]:
    """Measures the inference of one image by an implementation and by the plain one, which take turns.

    Args:
      name: name of the implementation.
      apply_network: function of the implementation, as `plain.apply_network`.
      config: configuration of the network.
      device: device that computes.
      size: height and width of the image in pixels.

    Returns:
      The medians of 20 runs each in milliseconds, by the names of the implementations, "plain" for the plain one.
    """
    graph, shapes = nnx.split(SeemoReNetwork.abstract(config))
    seconds: dict[str, list[float]] = {name: [], "plain": []}

    def compiled(apply: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(lambda parameters, lr: apply(nnx.merge(graph, parameters), lr)[0])

    with jax.default_device(device), jax.disable_jit(False):
        parameters = jax.tree.map(lambda shape: jnp.full(shape.shape, 0.01, shape.dtype), shapes)
        lr = jnp.full((1, *size, 3), 0.5, jnp.float32)
        functions = {name: compiled(apply_network), "plain": compiled(plain.apply_network)}
        for function in functions.values():
            jax.block_until_ready(function(parameters, lr))  # compiles it
        for _ in range(_RUNS):
            for which, function in functions.items():
                start = time.perf_counter()
                jax.block_until_ready(function(parameters, lr))
                seconds[which].append(time.perf_counter() - start)
    return {which: 1000 * statistics.median(found) for which, found in seconds.items()}
