"""Measures the cost of JAX's transformations: `vmap` over images, and the gradient of each example.

    python -m benchmarks.transformations --model T-x4 --output FILE.json

The comparison is with one call on the batch of the same images, and with the gradient of the whole batch.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import seemore_jax as sj
from benchmarks.harness import options, records, tables, timing

_BATCH = "a batch"
_GRADIENT = "gradient of a batch"


def main() -> None:
    chosen = _options()
    start = time.perf_counter()
    result = measure(sj.load(chosen.model), chosen.images, chosen.size, chosen.rounds)
    print(records.footer(time.perf_counter() - start))
    records.finish(chosen.output, {"model": chosen.model, **result})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times vmap over images against one call on their batch.")
    options.add_weights_name(parser)
    parser.add_argument("--images", type=int, default=8, help="images in the batch (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="side of the images in LR pixels (default: %(default)s)")
    options.add_rounds(parser, default=15)
    options.add_output(parser)
    return parser.parse_args()


def measure(model: sj.SeemoRe, images: int, size: int, rounds: int) -> dict[str, Any]:
    """Times the calls, prints their table and returns the figures."""
    graph, parameters = nnx.split(model)
    lr = jnp.asarray(np.random.default_rng(0).random((images, size, size, 3), np.float32))

    def upscale(parameters: nnx.State, lr: jax.Array) -> jax.Array:
        return nnx.merge(graph, parameters)(lr)

    def upscale_one(parameters: nnx.State, image: jax.Array) -> jax.Array:
        return upscale(parameters, image[None])[0]

    def loss(parameters: nnx.State, lr: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(upscale(parameters, lr)))

    def loss_of_one(parameters: nnx.State, image: jax.Array) -> jax.Array:
        return loss(parameters, image[None])

    functions: dict[str, Callable[..., Any]] = {
        _BATCH: upscale,
        "vmap over images": jax.vmap(upscale_one, (None, 0)),
        _GRADIENT: jax.grad(loss),
        "gradient of vmap": jax.grad(lambda p, lr: jnp.sum(jax.vmap(loss_of_one, (None, 0))(p, lr))),
        "gradients of each example": jax.vmap(jax.grad(loss_of_one), (None, 0)),
    }
    compiled = {name: jax.jit(function) for name, function in functions.items()}
    calls = {name: lambda f=f: jax.block_until_ready(f(parameters, lr)) for name, f in compiled.items()}
    timings = timing.in_turns(calls, rounds=rounds)
    print(tables.comparison(timings, [_BATCH], "images", images))
    return {"images": images, "size": size, **timings.summary([_BATCH])}


if __name__ == "__main__":
    main()
