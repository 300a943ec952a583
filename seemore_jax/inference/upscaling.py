"""Upscaling of integer images: any of 8 or 16 bits, grey or colour, with or without transparency."""

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

# Beyond this many times the network's own factor, enlarging only costs memory.
_MOST_ENLARGED = 4


class Upscaled(NamedTuple):
    """An upscaled image, and what the routers chose for it (a `Routing` of one image)."""

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
    """Upscales one image, of any size: a large one in strips, or split over the devices, with the same result.

    Within `jax.default_device` only that device is used.

    Args:
      model: any SeemoRe; its `config.scale` is the factor s.
      image: uint8 or uint16, over the type's whole range: (H, W) or (H, W, 1) grey, (H, W, 3) RGB, or, with
        straight alpha as the last channel, (H, W, 2) grey or (H, W, 4) RGB.
      outscale: another factor than the model's: its output is resized bicubically, with antialiasing where that
        shrinks it. Sides are rounded up.
      ensemble: average over eight flips and transposes, for eight times the time.
      strip_rows: height of the strips in which the image is upscaled, in LR pixels; 0: never in strips, whatever
        memory that takes. By default, it depends on the size of the image.
      callbacks: called while a large image is upscaled, with the progress and with notes.
      old_names: `tile` for `strip_rows` and `watch` for `callbacks`, the names of version 0.1; they go with the next
        release.

    Returns:
      An image of s times the size, of the same type and channels, rounded and clipped. Alpha is enlarged
      bicubically; colours under transparent pixels are replaced by those of the nearest visible pixel first,
      so that edges get no fringe.

    Raises:
      InputError: another type or shape, an empty image, or an `outscale` that is not within 0 and 4·s.

    Programs are compiled for each type and channel count, and for one in some dozen image sizes.
    """
    strip_rows, callbacks = _renamed(old_names, tile=strip_rows, watch=callbacks)
    image = np.asarray(image)
    (upscaled,) = upscale_images(
        model, [image], outscale=outscale, ensemble=ensemble, strip_rows=strip_rows, callbacks=callbacks
    )
    return upscaled.image


def _renamed(given: dict[str, Any], **values: Any) -> tuple[Any, ...]:
    """Returns the values, replaced by those that are given under their old names; warns about these."""
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
    """Upscales images of one shape and type, as `upscale` does each, in one batch.

    Args:
      model, outscale, ensemble, strip_rows, callbacks: as for `upscale`.
      images: at least one.
      batch_size: fill the batch up to this many, so that a smaller one needs no program of its own.

    Raises:
      InputError: as for `upscale`, or images that differ in shape or type.
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
        colors = colors.astype(np.uint16) * np.uint16(257)  # rounded to 8 bits once, at the end
    upscaled, routing = _upscale_colors(model, colors, ensemble, batch_size, strip_rows, callbacks)
    if resize and outscale is not None:
        upscaled = [imresize(color, outscale / scale) for color in upscaled]
        upscaled = [to_8_bits(color) if dtype == np.uint8 else color for color in upscaled]
    joined = [_join(color, image, outscale or scale) for color, image in zip(upscaled, images, strict=True)]
    return [Upscaled(image, Routing(*(field[i : i + 1] for field in routing))) for i, image in enumerate(joined)]


def routing(model: SeemoRe, image: UInt[np.ndarray, "h w *c"]) -> Routing:
    """What the routers choose for an image of the kinds that `upscale` takes: a `Routing` of one image.

    Raises:
      InputError: another type or shape, or an empty image.
    """
    image = np.asarray(image)
    _check_image(image)
    return run(model, _color(image)[None])[1]


def check_outscale(outscale: float | None, scale: int) -> None:
    """Raises InputError for a factor that a network of that scale does not lead to."""
    if outscale is not None and not 0 < outscale <= _MOST_ENLARGED * scale:
        raise InputError(
            f"outscale is {outscale:g}; a ×{scale} network takes more than 0, up to {scale * _MOST_ENLARGED}"
        )


def _check_image(image: np.ndarray) -> None:
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"upscale takes a uint8 or uint16 image, not {image.dtype}")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (2,), (3,), (4,)) or image.size == 0:
        raise InputError(f"upscale takes an image (H, W) or (H, W, 1 | 2 | 3 | 4), not {image.shape}")


def _color(image: UInt[np.ndarray, "h w *c"]) -> UInt[np.ndarray, "h w d"]:
    """What the network is to see: one channel or three, without alpha."""
    if has_alpha(image):
        return _fill_hidden(image[..., :-1], image[..., -1] > 0)
    return image.reshape(*image.shape[:2], -1)


def _join(
    color: UInt[np.ndarray, "sh sw d"], image: UInt[np.ndarray, "h w *c"], factor: float
) -> UInt[np.ndarray, "sh sw *c"]:
    """Upscaled colours in the channels of the image that they are of, with its alpha enlarged by `factor`."""
    if not has_alpha(image):
        return color.reshape(*color.shape[:2], *image.shape[2:])
    alpha = _fit(imresize(image[..., -1], factor), *color.shape[:2])
    return np.concatenate([color, alpha[..., None]], axis=-1)


def _fit(alpha: UInt[np.ndarray, "h w"], height: int, width: int) -> UInt[np.ndarray, "h2 w2"]:
    """Repeats or drops a last row or column, by which rounding may set two ways to one factor apart."""
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
    """Upscales a batch of grey (d = 1) or RGB (d = 3) images; with their routing, the one of the images unturned."""
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
    """Gives each invisible pixel the colour of the nearest visible one: what is stored there is arbitrary."""
    if visible.all() or not visible.any():
        return color
    import scipy.ndimage  # takes a while, and few images are transparent

    rows, columns = scipy.ndimage.distance_transform_edt(~visible, return_distances=False, return_indices=True)
    return color[rows, columns]
