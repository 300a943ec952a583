"""Writes image files. A file appears only when it is complete.

Pillow writes all images of 8 bits. Pillow has no colour images of 16 bits, so imagecodecs writes 16-bit PNG files, and
tifffile writes 16-bit TIFF files.
"""

import os
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from jaxtyping import UInt
from PIL import Image

from seemore_jax.data.images import SUFFIXES, ImageError, has_alpha
from seemore_jax.data.metadata import Metadata, add_to_png, add_to_tiff, pillow_options, tifffile_options
from seemore_jax.system.files import atomic_write

_QUALITY: dict[str, Any] = {"quality": 95}
_SAVE_OPTIONS = {".jpg": _QUALITY, ".jpeg": _QUALITY, ".webp": _QUALITY}
_NO_ALPHA = (".jpg", ".jpeg", ".bmp")
_SIXTEEN_BIT = (".png", ".tif", ".tiff")
_LONGEST_SIDE = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}


def write_image(
    path: str | os.PathLike[str], image: UInt[np.ndarray, "h w *c"], metadata: Metadata | None = None
) -> None:
    """Writes an image in the format that the suffix names.

    The file appears only when it is complete.

    Args:
      path: the file, with one of the suffixes in `images.SUFFIXES`.
      image: uint8 or uint16: (H, W) grey, (H, W, 2) grey with straight alpha, (H, W, 3) RGB, (H, W, 4) RGB with
        straight alpha.
      metadata: the metadata to write; None writes none. Only metadata that the format can store are written: BMP stores
        only the resolution. A colour profile is written only if it fits the image's channels.

    Raises:
      ImageError: the format is unknown, the format cannot store 16 bits, transparency or sides of this length, or the
        file cannot be written.
    """
    path, metadata = Path(path), metadata or Metadata()
    check_image_target(path, image)
    image = np.ascontiguousarray(image)
    try:
        with atomic_write(path) as temporary:
            _write(temporary, image, metadata)
    except (OSError, ValueError) as error:  # ValueError: the format has no images of this size
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: cannot be written: {reason}") from error


def _write(path: Path, image: np.ndarray, metadata: Metadata) -> None:
    suffix = path.suffix.lower()
    height, width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint16:
        options = pillow_options(metadata, suffix, channels, width, height)
        Image.fromarray(image).save(path, **_SAVE_OPTIONS.get(suffix, {}), **options)
    elif suffix == ".png":
        path.write_bytes(add_to_png(bytes(imagecodecs.png_encode(image)), metadata, channels, width, height))
    else:
        options = tifffile_options(metadata, channels)
        photometric = "minisblack" if channels <= 2 else "rgb"
        extra = ["unassalpha"] if channels in (2, 4) else None
        planes = "contig" if channels > 1 else None
        tifffile.imwrite(path, image, photometric=photometric, extrasamples=extra, planarconfig=planes, **options)
        add_to_tiff(path, metadata, width, height)


def check_image_target(path: str | os.PathLike[str], image: UInt[np.ndarray, "h w *c"]) -> None:
    """Checks that the format that the suffix names can store an image.

    Args:
      path: the file that is to be written.
      image: the image, as for `write_image`; only its type and its channels matter.

    Raises:
      ImageError: the format is unknown, or cannot store 16 bits or transparency.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageError(f"{path}: not an image format that can be written; use {', '.join(SUFFIXES)}")
    if image.dtype == np.uint16 and not can_hold_16_bits(path):
        raise ImageError(f"{path}: {suffix} cannot hold 16 bits; use .png or .tiff")
    if has_alpha(image) and not can_hold_alpha(path):
        raise ImageError(f"{path}: {suffix} cannot hold transparency; use .png, .webp or .tiff")


def can_hold_16_bits(path: str | os.PathLike[str]) -> bool:
    """Returns whether the format that the suffix names can store 16 bits for each channel.

    Args:
      path: a file name with a suffix.
    """
    return Path(path).suffix.lower() in _SIXTEEN_BIT


def can_hold_alpha(path: str | os.PathLike[str]) -> bool:
    """Returns whether the format that the suffix names can store transparency.

    Args:
      path: a file name with a suffix.
    """
    return Path(path).suffix.lower() not in _NO_ALPHA


def check_sides(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Checks that the format that the suffix names can store images of a size.

    Args:
      path: a file name with a suffix.
      width: the width in pixels.
      height: the height in pixels.

    Raises:
      ImageError: a side is too long.
    """
    suffix = Path(path).suffix.lower()
    longest = _LONGEST_SIDE.get(suffix, 2**31 - 1)
    if max(width, height) > longest:
        raise ImageError(
            f"{path}: {width}×{height} is too large for {suffix} (at most {longest} pixels a side); use .png"
        )
