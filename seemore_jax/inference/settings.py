"""The options of the upscaling of files, and what they do to the pixels that are written."""

import dataclasses

import numpy as np
from jaxtyping import UInt

from seemore_jax.data.formats import MAX_PIXELS
from seemore_jax.data.images import has_alpha, to_8_bits


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of the upscaling of files.

    Attributes:
      outscale: factor of the results, None for the factor of the network.
      ensemble: whether to average over eight flips and transposes.
      flatten: whether to compose transparent images with white.
      eight_bit: whether to write 16-bit images with 8 bits.
      overwrite: whether to replace existing outputs.
      strip_rows: height of a strip in LR pixels; 0 means whole images, None depends on the size of the image.
      max_pixels: largest number of pixels that the header of a file may declare.
      quality: quality of JPEG, WebP and AVIF files, from 1 to 100; None for the default of each format.
    """

    outscale: float | None = None
    ensemble: bool = False
    flatten: bool = False
    eight_bit: bool = False
    overwrite: bool = False
    strip_rows: int | None = None
    max_pixels: int = MAX_PIXELS
    quality: int | None = None


def reduced(image: UInt[np.ndarray, "h w *c"], settings: Settings) -> UInt[np.ndarray, "h w *d"]:
    """Flattens an image and rounds it to 8 bits, if the settings say so.

    Args:
      image: image as for `write_image`.
      settings: options.
    """
    if settings.flatten and has_alpha(image):
        image = flatten(image)
    return to_8_bits(image) if settings.eight_bit else image


def flatten(image: UInt[np.ndarray, "h w c"]) -> UInt[np.ndarray, "h w *d"]:
    """Composes an image with white.

    Args:
      image: image with straight alpha as the last channel, (H, W, 2) for grey or (H, W, 4) for RGB.

    Returns:
      An image of the same type without alpha, (H, W) for grey or (H, W, 3) for RGB.
    """
    peak = np.iinfo(image.dtype).max
    alpha = image[..., -1:].astype(np.float32) / peak
    color = np.round(image[..., :-1] * alpha + peak * (1 - alpha)).clip(0, peak).astype(image.dtype)
    return color[..., 0] if color.shape[-1] == 1 else color


def opaque(image: UInt[np.ndarray, "h w *c"]) -> UInt[np.ndarray, "h w *d"]:
    """Drops the alpha of an image that is nowhere transparent, and returns all other images unchanged.

    Args:
      image: image as for `write_image`.
    """
    if not has_alpha(image) or (image[..., -1] != np.iinfo(image.dtype).max).any():
        return image
    return image[..., 0] if image.shape[2] == 2 else image[..., :3]
