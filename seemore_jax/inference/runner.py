"""Computation of a network on integer images: as a whole, split over the devices, or in strips.

The result is the same. Programs are compiled for only a few sizes: an image is copied into an array of the next larger
size, and the network gets the size of the image.
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

# Numbers of feature maps in memory at the same time, for a whole image (measured on a CPU) and for a strip.
_MAPS_OF_WHOLE = 8
_MAPS_OF_STRIP = 9
# Memory for these maps: a number of bytes on a CPU, a fraction of the device's memory on an accelerator.
_BYTES_ON_CPU = 75 * 10**7
_SHARE_OF_DEVICE = 0.5
# Fraction of the free memory of the host for the feature maps of an image in strips. Larger maps go to a file.
_SHARE_OF_MEMORY = 0.6
# Images with fewer LR pixels are not split over devices.
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

    Within `jax.default_device`, only that device computes.

    Args:
      model: network.
      images: uint8 or uint16 images with values over the whole range of the type.
      dtype: type of the result, by default that of the images. With float32, the result is the network's RGB output.
      strip_rows: height of a strip in LR pixels; 0 means never in strips. By default, an image is upscaled in strips if
        it is large for the memory of the device.
      callbacks: functions that are called while an image is upscaled in strips.

    Returns:
      Images of s times the size, and their routing.

    Raises:
      InputError: there is no space for a temporary file of feature maps.
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


def expected_memory(config: SeemoReConfig, height: int, width: int) -> int:
    """Returns about how many bytes an image takes while it is computed, beside what the program itself takes.

    Args:
      config: configuration of the network.
      height, width: size of the image in LR pixels.
    """
    result = 3 * height * width * config.scale**2
    whole = _MAPS_OF_WHOLE * height * width * _pixel_bytes(config)
    return result + (whole if whole <= _budget() else map_bytes(config, height, width) + int(_budget()))


def upscale_batch(
    graph: nnx.GraphDef[SeemoRe], parameters: nnx.State, images: UInt[Array, "n h w c"]
) -> UInt[Array, "n sh sw c"]:
    """Computes what `run` computes for images that fill their arrays. This is a pure function, for compilation.

    Args:
      graph: graph of the network, from `nnx.split`.
      parameters: parameters of the network, from `nnx.split`.
      images: uint8 or uint16 images with values over the whole range of the type.

    Returns:
      Images of s times the size, of the same type and channels.
    """
    return _upscale_batch(graph, parameters, images, None, images.dtype.name)[0]


def _upscale_batch(
    graph: nnx.GraphDef[SeemoRe],
    parameters: nnx.State,
    images: UInt[Array, "n h w c"],
    size: Int[Array, "2"] | None,
    dtype: str,
) -> tuple[Num[Array, "n sh sw e"], Routing]:
    """Upscales integer images; `size` is that of `SeemoRe.__call__`."""
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
    """Upscales one image, whose rows are split over all devices of this process.

    The compiler inserts the exchange of rows between devices. The plain implementation computes the network, because
    the kernels cannot be split.

    Args:
      model: network.
      image: uint8 or uint16 image with values over the whole range of the type.
      dtype: type of the result, as for `run`.

    Returns:
      A batch with the image of s times the size, and its routing.
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
    """Upscales one image in strips of `strip_rows` rows, by default as many as the memory allows.

    If the memory does not suffice, it tries again with half as many rows.
    """
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
    """Returns the size of one pixel of a feature map in bytes."""
    return config.embedding_dim * jnp.dtype(config.compute_dtype).itemsize


def _budget() -> float:
    """Returns how many bytes the feature maps of a whole image or of a strip may take on the device."""
    statistics = (_chosen_device() or jax.local_devices()[0]).memory_stats() or {}
    limit = statistics.get("bytes_limit")
    return _SHARE_OF_DEVICE * limit if limit else _BYTES_ON_CPU


def _chosen_device() -> jax.Device | None:
    """Returns the device of `jax.default_device` in this thread; None outside of it."""
    chosen = jax.config.values["jax_default_device"]
    return jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen


def _require_out_of_memory(error: Exception) -> None:
    """Raises an error again unless it means that there is not enough memory."""
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
        raise error


def _in_bucket(
    images: UInt[np.ndarray, "n h w d"], min_side: int
) -> tuple[UInt[np.ndarray, "n h2 w2 d"], Int[np.ndarray, "2"] | None]:
    """Returns the images in arrays of a size of `bucket`, and the size of the images; None if they fill the arrays."""
    height, width = images.shape[1:3]
    missing = [bucket(side, min_side) - side for side in (height, width)]
    if not any(missing):
        return images, None
    padded = np.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    return padded, np.array([height, width], np.int32)


def bucket(side: int, min_side: int) -> int:
    """Returns the length of an array for a side of an image: one of few lengths, so that few programs are compiled.

    There are eight lengths for each doubling, or fewer, since all are multiples of 16.

    Args:
      side: length of the side in LR pixels.
      min_side: least length of the array, `config.min_side`.
    """
    side = max(side, min_side, 16)
    step = max(16, 2 ** ((side - 1).bit_length() - 4))
    return -(-side // step) * step


def _cropped(sr: Array, images: np.ndarray, scale: int) -> np.ndarray:
    """Returns the part of the result that belongs to the images."""
    return np.asarray(sr)[: len(images), : images.shape[1] * scale, : images.shape[2] * scale]
