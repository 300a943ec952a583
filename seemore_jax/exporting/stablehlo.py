"""The network as a StableHLO program for CPU, CUDA and TPU, by `jax.export`.

JAX promises to read such a file for six months after the version that wrote it, and with versions up to three weeks
older (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees).
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
    """The content of a file that `load_stablehlo` reads: the program with the weights in it.

    It maps float32 images (N, H, W, 3), RGB with values in [0, 1], of any batch and any size from 1×1, to
    (N, sH, sW, 3), nominally in [0, 1] but not clipped: what `model` computes, by plain XLA operations, in its
    `compute_dtype` and at its `precision`.
    """
    shape = jax.export.symbolic_shape("n, h, w, 3")
    with _no_source_locations():
        exported = jax.export.export(jax.jit(_for_any_size(model)), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct(shape, jnp.float32)
        )
    return add_checksum(bytes(exported.serialize()))


def _for_any_size(model: SeemoRe):  # type: ignore[no-untyped-def]
    """The model as a function that can be traced with unknown sizes, for platforms that are unknown, too."""
    network = nnx.merge(*nnx.split(model))  # a copy
    config = network.config = dataclasses.replace(model.config, implementation="plain", rematerialize=False)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Conv) and module.conv_general_dilated is depthwise_conv_general_dilated:
            module.conv_general_dilated = depthwise_conv_by_platform

    def seemore(lr: Float[Array, "n h w 3"]) -> Float[Array, "n sh sw 3"]:
        height, width = lr.shape[1:3]
        # The model's own padding asks whether a side is too short, which an unknown size does not tell.
        for axis in (1, 2):
            side = lr.shape[axis]
            padded = jnp.arange(jax.core.max_dim(side, config.min_side))
            lr = jnp.take(lr, jnp.minimum(padded, side - 1), axis=axis)
        return network(lr)[:, : height * config.scale, : width * config.scale]

    return seemore


@contextlib.contextmanager
def _no_source_locations() -> Iterator[None]:
    """Leaves paths of this machine out of the program; equal networks become equal files."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
