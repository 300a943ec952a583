"""Writing of image files, whole or not at all.

Pillow writes everything of 8 bits. It cannot hold 16 bits in colour, so imagecodecs writes 16-bit PNG and tifffile
16-bit TIFF.
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
    """Writes an image of the kinds in a `Picture`, in the format that the suffix names.

    The file appears only when it is complete. Of the metadata it gets what the format can hold: BMP holds the
    resolution only, and only a profile that fits the image's colours is written.

    Raises:
      ImageError: the format is unknown or cannot hold 16 bits or transparency, or the path cannot be written.
    """
    path, metadata = Path(path), metadata or Metadata()
    check_image_target(path, image)
    image = np.ascontiguousarray(image)
    try:
        with atomic_write(path) as temporary:
            _write(temporary, image, metadata)
    except (OSError, ValueError) as error:  # the latter for sides that the format cannot have
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
    """Raises ImageError if the format that the suffix of `path` names cannot hold images like this one."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageError(f"{path}: not an image format that can be written; use {', '.join(SUFFIXES)}")
    if image.dtype == np.uint16 and not can_hold_16_bits(path):
        raise ImageError(f"{path}: {suffix} cannot hold 16 bits; use .png or .tiff")
    if has_alpha(image) and not can_hold_alpha(path):
        raise ImageError(f"{path}: {suffix} cannot hold transparency; use .png, .webp or .tiff")


def can_hold_16_bits(path: str | os.PathLike[str]) -> bool:
    """Whether the format that the suffix names holds 16 bits for each channel."""
    return Path(path).suffix.lower() in _SIXTEEN_BIT


def can_hold_alpha(path: str | os.PathLike[str]) -> bool:
    """Whether the format that the suffix names holds transparency."""
    return Path(path).suffix.lower() not in _NO_ALPHA


def check_sides(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Raises ImageError if the format that the suffix names has no images of that size in pixels."""
    suffix = Path(path).suffix.lower()
    longest = _LONGEST_SIDE.get(suffix, 2**31 - 1)
    if max(width, height) > longest:
        raise ImageError(f"{path}: {width}×{height} is too large for {suffix}, whose sides end at {longest}; use .png")
