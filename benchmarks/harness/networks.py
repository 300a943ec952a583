"""Makes the networks, images and compiled programs that benchmarks measure."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import seemore_jax as sj
from seemore_jax.network.config import SCALES, VARIANTS
from seemore_jax.training.loss import loss_terms

MODELS = tuple(f"{variant}-x{scale}" for variant in VARIANTS for scale in SCALES)


def config_of(model: str) -> sj.SeemoReConfig:
    """Returns the configuration of a name such as T-x4."""
    variant, scale = model.split("-x")
    return sj.SeemoReConfig.variant(variant, int(scale))


def random_network(config: sj.SeemoReConfig) -> sj.SeemoRe:
    """Returns a network with random weights, the same ones at every call."""
    return sj.SeemoRe(config, rngs=nnx.Rngs(0))


def random_images(count: int, height: int, width: int) -> np.ndarray:
    """Returns random images (count, height, width, 3), uint8, the same ones at every call."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def loss_function(graph: nnx.GraphDef[sj.SeemoRe]) -> Callable[[nnx.State, jax.Array, jax.Array], jax.Array]:
    """Returns the training loss as a function of parameters, LR (N, H, W, 3) and HR (N, sH, sW, 3), both uint8."""

    def loss(parameters: nnx.State, lr: jax.Array, hr: jax.Array) -> jax.Array:
        lr, hr = (image.astype(jnp.float32) / 255 for image in (lr, hr))
        return loss_terms(nnx.merge(graph, parameters)(lr), hr).total

    return loss


@dataclasses.dataclass(frozen=True)
class Program:
    """Holds a function that was compiled for fixed arguments.

    Attributes:
      run: calls the program and returns its result when it is computed.
      bytes: the memory that the program allocates beside its arguments: temporary buffers and results.
    """

    run: Callable[[], Any]
    bytes: int

    @classmethod
    def compile(cls, function: Callable[..., Any], *arguments: Any) -> "Program":
        """Compiles `function(*arguments)`, and puts the arguments into device memory."""
        arguments = jax.device_put(arguments)
        program: Any = jax.jit(function).lower(*arguments).compile()
        memory = program.memory_analysis()
        size = memory.temp_size_in_bytes + memory.output_size_in_bytes
        return cls(lambda: jax.block_until_ready(program(*arguments)), size)
