"""Compiled programs of this package, with what `timing` needs of them and the memory that XLA gives them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import seemore_jax as sj
from seemore_jax.training.loss import loss_terms


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function on fixed arguments.

    Attributes:
      run: calls it; returns its result when that is there.
      bytes: what it allocates beside its arguments: temporary buffers and results.
    """

    run: Callable[[], Any]
    bytes: int

    @classmethod
    def compile(cls, function: Callable[..., Any], *arguments: Any) -> "Program":
        """The program of `function(*arguments)`."""
        program: Any = jax.jit(function).lower(*arguments).compile()
        memory = program.memory_analysis()
        size = memory.temp_size_in_bytes + memory.output_size_in_bytes
        return cls(lambda: jax.block_until_ready(program(*arguments)), size)


def loss_function(graph: nnx.GraphDef[sj.SeemoRe]) -> Callable[[nnx.State, jax.Array, jax.Array], jax.Array]:
    """The training loss of parameters, LR (N, H, W, 3) and HR (N, sH, sW, 3), both uint8."""

    def loss(parameters: nnx.State, lr: jax.Array, hr: jax.Array) -> jax.Array:
        lr, hr = (image.astype(jnp.float32) / 255 for image in (lr, hr))
        return loss_terms(nnx.merge(graph, parameters)(lr), hr).total

    return loss


def random_images(count: int, height: int, width: int) -> jax.Array:
    """(count, height, width, 3), uint8, in device memory."""
    return jax.device_put(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))
