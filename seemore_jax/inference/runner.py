"""How a network is run over integer images: whole, split over the devices, or in strips; the result is the same.

Programs are compiled for few sizes: an image is put into an array of the next larger one, and the network is told
where it ends.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, Num, UInt

from seemore_jax.inference.callbacks import Callbacks
from seemore_jax.inference.pixels import from_float, to_float
from seemore_jax.inference.strips import halo, map_bytes, upscale_in_strips
from seemore_jax.network import Routing, SeemoRe, SeemoReConfig
from seemore_jax.system.memory import free_memory

# Feature maps that exist at once: of the whole image, measured on a CPU, and of a strip.
_MAPS_OF_WHOLE = 8
_MAPS_OF_STRIP = 9
# What these may take on a CPU; on an accelerator it is a share of its memory.
_BYTES_ON_CPU = 75 * 10**7
_SHARE_OF_DEVICE = 0.5
# Of the free memory, what the feature maps of a large image may take; more goes to a file.
_SHARE_OF_MEMORY = 0.6
# Smaller images are not worth splitting over devices.
_SPLIT_PIXELS = 2**20
_FEWEST_ROWS = 8


def run(
    model: SeemoRe,
    images: UInt[np.ndarray, "n h w d"],
    *,
    dtype: np.dtype | type | None = None,
    strip_rows: int | None = None,
    callbacks: Callbacks | None = None,
) -> tuple[Num[np.ndarray, "n sh sw c"], Routing]:
    """Upscales a batch of grey (d = 1) or RGB (d = 3) images of one size.

    Args:
      model: any SeemoRe.
      images: uint8 or uint16, over the type's whole range.
      dtype: of the result, if not that of the images: float32 is the network's own values, of three channels.
      strip_rows: height of the strips in which an image is upscaled, in LR pixels; 0: never in strips. By default,
        images that are large for the device's memory are upscaled in strips.
      callbacks: called while a large image is upscaled.

    Returns:
      The images, s times as large, and their routing.

    Within `jax.default_device` everything is computed on that device alone.
    """
    dtype, callbacks = np.dtype(dtype or images.dtype), callbacks or Callbacks()
    config, pixels = model.config, math.prod(images.shape[1:3])
    if len(images) > 1 or strip_rows == 0:
        return _run_whole(model, images, dtype)
    several = _chosen_device() is None and jax.local_device_count() > 1
    if strip_rows is None and pixels >= _SPLIT_PIXELS and several:
        attempt = functools.partial(run_split, model, images[0], dtype)
    elif strip_rows is None and _MAPS_OF_WHOLE * pixels * _pixel_bytes(config) <= _budget():
        attempt = functools.partial(_run_whole, model, images, dtype)
    else:
        return _run_strips(model, images[0], dtype, strip_rows, callbacks)
    try:
        return attempt()
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        _require_out_of_memory(error)
    return _run_strips(model, images[0], dtype, None, callbacks)


def upscale_batch(
    graph: nnx.GraphDef[SeemoRe], parameters: nnx.State, images: UInt[Array, "n h w c"]
) -> UInt[Array, "n sh sw c"]:
    """What `run` computes for images that fill their arrays; a pure function, to be compiled."""
    return _upscale_batch(graph, parameters, images, None, images.dtype.name)[0]


def _upscale_batch(
    graph: nnx.GraphDef[SeemoRe],
    parameters: nnx.State,
    images: UInt[Array, "n h w c"],
    size: Int[Array, "2"] | None,
    dtype: str,
) -> tuple[Num[Array, "n sh sw e"], Routing]:
    """`size` is as for SeemoRe."""
    sr, routing = nnx.merge(graph, parameters)(to_float(images), size=size, return_routing=True)
    return from_float(sr, np.dtype(dtype), images.shape[-1]), routing


_compiled_batch = jax.jit(_upscale_batch, static_argnames=("graph", "dtype"))


def _run_whole(
    model: SeemoRe, images: UInt[np.ndarray, "n h w d"], dtype: np.dtype
) -> tuple[Num[np.ndarray, "n sh sw c"], Routing]:
    graph, parameters = nnx.split(model)
    padded, size = _in_bucket(images, model.config.min_side)
    sr, routing = _compiled_batch(graph, parameters, padded, size, dtype.name)
    return _cropped(sr, images, model.config.scale), jax.tree.map(np.asarray, routing)


def run_split(
    model: SeemoRe, image: UInt[np.ndarray, "h w d"], dtype: np.dtype
) -> tuple[Num[np.ndarray, "1 sh sw c"], Routing]:
    """One image, its rows split over all devices of this process: the compiler exchanges the rows at the edges.

    By the plain implementation: kernels are not split.
    """
    plain = SeemoRe.abstract(dataclasses.replace(model.config, implementation="plain"))
    graph, parameters = nnx.split(plain)[0], nnx.split(model)[1]
    mesh = Mesh(np.asarray(jax.local_devices()), ("rows",))
    padded, _ = _in_bucket(image[None], model.config.min_side)
    missing = -padded.shape[1] % mesh.size
    padded = np.pad(padded, ((0, 0), (0, missing), (0, 0), (0, 0)))
    rows, replicated = NamedSharding(mesh, P(None, "rows")), NamedSharding(mesh, P())
    program = _split_program(rows, replicated)
    placed = jax.device_put(padded, rows)
    parameters, size = jax.device_put((parameters, np.asarray(image.shape[:2], np.int32)), replicated)
    sr, routing = program(graph, parameters, placed, size, dtype.name)
    return _cropped(sr, image[None], model.config.scale), jax.tree.map(np.asarray, routing)


@functools.cache
def _split_program(rows: NamedSharding, replicated: NamedSharding) -> Callable[..., tuple[Array, Routing]]:
    return jax.jit(_upscale_batch, static_argnames=("graph", "dtype"), out_shardings=(rows, replicated))


def _run_strips(
    model: SeemoRe, image: UInt[np.ndarray, "h w d"], dtype: np.dtype, strip_rows: int | None, callbacks: Callbacks
) -> tuple[Num[np.ndarray, "1 sh sw c"], Routing]:
    """In strips of `strip_rows` rows, or as many as there is memory for; in fewer where that proves too much."""
    config = model.config
    needed = map_bytes(config, *image.shape[:2])
    in_file = needed > _SHARE_OF_MEMORY * free_memory()
    if in_file:
        callbacks.note(f"{needed / 1e9:.1f} GB of feature maps go to a temporary file, which is slower")
    rows = strip_rows or int(_budget() / (_MAPS_OF_STRIP * image.shape[1] * _pixel_bytes(config))) - 2 * halo(config)
    rows = max(_FEWEST_ROWS, min(rows, image.shape[0]))
    while True:
        try:
            sr, routing = upscale_in_strips(model, image, rows, dtype=dtype, in_file=in_file, callbacks=callbacks)
            return sr[None], routing
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            _require_out_of_memory(error)
            if rows <= _FEWEST_ROWS:
                raise
        rows //= 2
        callbacks.note(f"out of memory: going on with strips of {rows} rows")


def _pixel_bytes(config: SeemoReConfig) -> int:
    return config.embedding_dim * jnp.dtype(config.compute_dtype).itemsize


def _budget() -> float:
    """Bytes that the feature maps of a whole image, or of a strip, may take on the device in use."""
    statistics = (_chosen_device() or jax.local_devices()[0]).memory_stats() or {}
    limit = statistics.get("bytes_limit")
    return _SHARE_OF_DEVICE * limit if limit else _BYTES_ON_CPU


def _chosen_device() -> jax.Device | None:
    """The device of `jax.default_device`, in this thread; None outside of it."""
    chosen = jax.config.values["jax_default_device"]
    return jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen


def _require_out_of_memory(error: Exception) -> None:
    """Raises any other error again."""
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
        raise error


def _in_bucket(
    images: UInt[np.ndarray, "n h w d"], min_side: int
) -> tuple[UInt[np.ndarray, "n h2 w2 d"], Int[np.ndarray, "2"] | None]:
    """Images in arrays of one of few sizes, and their own size; None where they fill the arrays."""
    height, width = images.shape[1:3]
    missing = [bucket(side, min_side) - side for side in (height, width)]
    if not any(missing):
        return images, None
    padded = np.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    return padded, np.array([height, width], np.int32)


def bucket(side: int, min_side: int) -> int:
    """The length of an array that holds a side: eight for each doubling, which are multiples of 16."""
    side = max(side, min_side, 16)
    step = max(16, 2 ** ((side - 1).bit_length() - 4))
    return -(-side // step) * step


def _cropped(sr: Array, images: np.ndarray, scale: int) -> np.ndarray:
    return np.asarray(sr)[: len(images), : images.shape[1] * scale, : images.shape[2] * scale]
