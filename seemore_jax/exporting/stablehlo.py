"""Exports the network with `jax.export` as a StableHLO program for CPU, CUDA and TPU.

JAX guarantees that versions up to six months newer and up to three weeks older than the writing version can read such a
file (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees).
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from seemore_jax.exporting.load_stablehlo import add_checksum
from seemore_jax.network import SeemoRe
from seemore_jax.network.depthwise import depthwise_conv_by_platform, depthwise_conv_general_dilated

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(model: SeemoRe) -> bytes:
    """Converts a network to a StableHLO program with the weights.

    The program computes what the model computes, with the model's `compute_dtype` and `precision`, in plain XLA
    operations.

    Args:
      model: the network.

    Returns:
      The content of a file that `load_stablehlo` reads. The program maps float32 images (N, H, W, 3), RGB in [0, 1],
      with any N, H and W from 1, to (N, scale·H, scale·W, 3), nominally in [0, 1] but not clipped.
    """
    shape = jax.export.symbolic_shape("n, h, w, 3")
    with _no_source_locations():
        exported = jax.export.export(jax.jit(_for_any_size(model)), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct(shape, jnp.float32)
        )
    return add_checksum(bytes(exported.serialize()))


def _for_any_size(model: SeemoRe):  # type: ignore[no-untyped-def]
    """Returns the model as a function that can be traced for unknown sizes and several platforms."""
    network = nnx.merge(*nnx.split(model))  # a copy
    config = network.config = dataclasses.replace(model.config, implementation="plain", rematerialize=False)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Conv) and module.conv_general_dilated is depthwise_conv_general_dilated:
            module.conv_general_dilated = depthwise_conv_by_platform

    def seemore(lr: Float[Array, "n h w 3"]) -> Float[Array, "n sh sw 3"]:
        height, width = lr.shape[1:3]
        # The model's own padding depends on whether a side is too short, which is unknown during tracing.
        for axis in (1, 2):
            side = lr.shape[axis]
            padded = jnp.arange(jax.core.max_dim(side, config.min_side))
            lr = jnp.take(lr, jnp.minimum(padded, side - 1), axis=axis)
        return network(lr)[:, : height * config.scale, : width * config.scale]

    return seemore


@contextlib.contextmanager
def _no_source_locations() -> Iterator[None]:
    """Leaves source locations out of the program, so that equal networks give equal files on all machines."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
