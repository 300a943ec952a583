"""Upscaling of integer images of 8 or 16 bits, grey or colour, with or without transparency."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, UInt

from seemore_jax.data.images import has_alpha, to_8_bits
from seemore_jax.data.imresize import imresize
from seemore_jax.inference.callbacks import Callbacks
from seemore_jax.inference.ensemble import self_ensemble
from seemore_jax.inference.pixels import from_float
from seemore_jax.inference.runner import run
from seemore_jax.network import Routing, SeemoRe
from seemore_jax.system.errors import InputError

# Largest `outscale`, as a multiple of the network's factor. A larger one only costs memory.
_MAX_ENLARGEMENT = 4
# Largest size of a batch, in LR pixels and in images. It keeps a device busy and takes little memory compared with one
# large image.
_BATCH_PIXELS = 2**18
_BATCH_IMAGES = 16


class Upscaled(NamedTuple):
    """Upscaled image and its routing.

    Attributes:
      image: upscaled image.
      routing: routing of a batch of one image.
    """

    image: UInt[np.ndarray, "sh sw *c"]
    routing: Routing


def upscale(
    model: SeemoRe,
    image: UInt[np.ndarray, "h w *c"],
    *,
    outscale: float | None = None,
    ensemble: bool = False,
    strip_rows: int | None = None,
    callbacks: Callbacks | None = None,
    **old_names: Any,
) -> UInt[np.ndarray, "sh sw *c"]:
    """Upscales one image of any size.

    A large image is upscaled in strips, or split over the devices; the result is the same. Within `jax.default_device`,
    only that device computes. One program is compiled for each image type and number of channels, and for each of some
    dozen image sizes; smaller images are padded to the next size.

    Args:
      model: network; `model.config.scale` is its factor s.
      image: uint8 or uint16 image with values over the whole range of the type: (H, W) or (H, W, 1) for grey,
        (H, W, 3) for RGB; with straight alpha as the last channel, (H, W, 2) for grey or (H, W, 4) for RGB.
      outscale: factor of the result if it is not s, above 0 and at most 4·s. The output of the network is then resized
        bicubically, with antialiasing if it becomes smaller. Sides are rounded up.
      ensemble: whether to average the results of eight flips and transposes, which takes eight times as long.
      strip_rows: height of a strip in LR pixels; 0 means never in strips, for any size of the image. By default, it
        depends on the size of the image.
      callbacks: functions that are called with the progress and with messages while a large image is upscaled.
      **old_names: `tile` for `strip_rows` and `watch` for `callbacks`, the names in version 0.1. The next release will
        remove them.

    Returns:
      An image of s (or `outscale`) times the size, of the same type and channels, rounded and clipped. Alpha is resized
      bicubically. Before the upscaling, invisible pixels get the colour of the nearest visible pixel, so that edges
      have no fringe of their colour.

    Raises:
      InputError: the image has another type or shape or is empty, `outscale` is out of range, or there is no space for
        a temporary file.
    """
    strip_rows, callbacks = _renamed(old_names, tile=strip_rows, watch=callbacks)
    image = np.asarray(image)
    (upscaled,) = upscale_images(
        model, [image], outscale=outscale, ensemble=ensemble, strip_rows=strip_rows, callbacks=callbacks
    )
    return upscaled.image


def _renamed(given: dict[str, Any], **values: Any) -> tuple[Any, ...]:
    """Returns the values, replaced by those with old names, and warns about old names."""
    for name in given:
        if name not in values:
            raise TypeError(f"upscale() got an unexpected keyword argument {name!r}")
        new = {"tile": "strip_rows", "watch": "callbacks"}[name]
        message = f"upscale({name}=…) is now upscale({new}=…); the old name goes with the next release"
        warnings.warn(message, FutureWarning, stacklevel=3)
    return tuple((values | given).values())


def upscale_images(
    model: SeemoRe,
    images: Sequence[UInt[np.ndarray, "h w *c"]],
    *,
    outscale: float | None = None,
    ensemble: bool = False,
    batch_size: int = 0,
    strip_rows: int | None = None,
    callbacks: Callbacks | None = None,
) -> list[Upscaled]:
    """Upscales images of one shape and type in one batch.

    Args:
      model: network.
      images: one or more images, as for `upscale`.
      outscale: factor of the results, as for `upscale`.
      ensemble: whether to average over flips and transposes, as for `upscale`.
      batch_size: number of images to which the batch is padded, so that smaller batches use the same program.
      strip_rows: height of a strip, as for `upscale`.
      callbacks: functions that are called while large images are upscaled, as for `upscale`.

    Returns:
      The upscaled images in the same order, each with its routing.

    Raises:
      InputError: as for `upscale`, or the images differ in shape or type.
    """
    for image in images:
        _check_image(image)
    if len({(image.shape, image.dtype) for image in images}) != 1:
        raise InputError("a batch takes one or more images of one shape and type")
    scale = model.config.scale
    check_outscale(outscale, scale)
    colors = np.stack([_color(image) for image in images])
    dtype, resize = colors.dtype, outscale is not None and outscale != scale
    if resize and dtype == np.uint8:
        colors = colors.astype(np.uint16) * np.uint16(257)  # the result is rounded to 8 bits only once, at the end
    upscaled, routing = _upscale_colors(model, colors, ensemble, batch_size, strip_rows, callbacks)
    if resize and outscale is not None:
        upscaled = [imresize(color, outscale / scale) for color in upscaled]
        upscaled = [to_8_bits(color) if dtype == np.uint8 else color for color in upscaled]
    joined = [_join(color, image, outscale or scale) for color, image in zip(upscaled, images, strict=True)]
    return [Upscaled(image, Routing(*(field[i : i + 1] for field in routing))) for i, image in enumerate(joined)]


def fitting_batch(height: int, width: int) -> int:
    """Returns how many images of one size are best computed at once, at least one.

    Args:
      height, width: size of the images in LR pixels.
    """
    return min(max(_BATCH_PIXELS // (height * width), 1), _BATCH_IMAGES)


def routing(model: SeemoRe, image: UInt[np.ndarray, "h w *c"]) -> Routing:
    """Returns the routing of an image, as for a batch of one image.

    Args:
      model: network.
      image: image as for `upscale`.

    Raises:
      InputError: the image has another type or shape or is empty.
    """
    image = np.asarray(image)
    _check_image(image)
    return run(model, _color(image)[None])[1]


def check_outscale(outscale: float | None, scale: int) -> None:
    """Checks the factor of a result.

    Args:
      outscale: factor of the result; None means `scale`.
      scale: factor s of the network.

    Raises:
      InputError: `outscale` is not above 0, or above 4·s.
    """
    if outscale is not None and not 0 < outscale <= _MAX_ENLARGEMENT * scale:
        raise InputError(
            f"outscale is {outscale:g}; a ×{scale} network takes more than 0, up to {scale * _MAX_ENLARGEMENT}"
        )


def _check_image(image: np.ndarray) -> None:
    """Raises InputError for an image that `upscale` does not accept."""
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"upscale takes a uint8 or uint16 image, not {image.dtype}")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (2,), (3,), (4,)) or image.size == 0:
        raise InputError(f"upscale takes an image (H, W) or (H, W, 1 | 2 | 3 | 4), not {image.shape}")


def _color(image: UInt[np.ndarray, "h w *c"]) -> UInt[np.ndarray, "h w d"]:
    """Returns the colour of an image, one or three channels without alpha: the input of the network."""
    if has_alpha(image):
        return _fill_hidden(image[..., :-1], image[..., -1] > 0)
    return image.reshape(*image.shape[:2], -1)


def _join(
    color: UInt[np.ndarray, "sh sw d"], image: UInt[np.ndarray, "h w *c"], factor: float
) -> UInt[np.ndarray, "sh sw *c"]:
    """Returns the upscaled image in the channels of the input, with its alpha resized by `factor`."""
    if not has_alpha(image):
        return color.reshape(*color.shape[:2], *image.shape[2:])
    alpha = _fit(imresize(image[..., -1], factor), *color.shape[:2])
    return np.concatenate([color, alpha[..., None]], axis=-1)


def _fit(alpha: UInt[np.ndarray, "h w"], height: int, width: int) -> UInt[np.ndarray, "h2 w2"]:
    """Repeats or drops the last row or column, because the sizes of colour and alpha may be rounded differently."""
    height_missing, width_missing = (max(0, n - m) for n, m in zip((height, width), alpha.shape, strict=True))
    return np.pad(alpha, ((0, height_missing), (0, width_missing)), mode="edge")[:height, :width]


def _upscale_colors(
    model: SeemoRe,
    images: UInt[np.ndarray, "n h w d"],
    ensemble: bool,
    batch_size: int,
    strip_rows: int | None,
    callbacks: Callbacks | None,
) -> tuple[list[UInt[np.ndarray, "sh sw d"]], Routing]:
    """Upscales a batch of grey (d = 1) or RGB (d = 3) images. The routing is that of the unflipped images."""
    count = len(images)
    images = np.concatenate([images, np.repeat(images[-1:], max(0, batch_size - count), axis=0)])
    if not ensemble:
        sr, routing = run(model, images, strip_rows=strip_rows, callbacks=callbacks)
        return list(sr[:count]), routing
    routings = []

    def network(turned: UInt[np.ndarray, "n h w d"], callbacks: Callbacks) -> Float32[np.ndarray, "n sh sw 3"]:
        sr, routing = run(model, turned, dtype=np.float32, strip_rows=strip_rows, callbacks=callbacks)
        routings.append(routing)
        return sr

    sr = self_ensemble(network, images, callbacks or Callbacks())
    sr = np.asarray(from_float(jnp.asarray(sr[:count]), images.dtype, images.shape[-1]))
    return list(sr), routings[0]


def _fill_hidden(color: UInt[np.ndarray, "h w d"], visible: Bool[np.ndarray, "h w"]) -> UInt[np.ndarray, "h w d"]:
    """Gives each invisible pixel the colour of the nearest visible pixel, because its own colour is arbitrary."""
    if visible.all() or not visible.any():
        return color
    import scipy.ndimage  # slow to import, and few images are transparent

    rows, columns = scipy.ndimage.distance_transform_edt(~visible, return_distances=False, return_indices=True)
    return color[rows, columns]
