"""Writes image files. A file appears only when it is complete.

Pillow writes the images of 8 bits that are not PNG. Pillow has no colour images of 16 bits, so tifffile writes 16-bit
TIFF files. `png_writing` writes all PNG files.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import UInt
from PIL import Image

from seemore_jax.data.formats import FORMATS, ImageError, written_format
from seemore_jax.data.gif_writing import write_gif
from seemore_jax.data.images import has_alpha
from seemore_jax.data.metadata import Metadata, add_to_tiff, pillow_options, png_chunks, tifffile_options
from seemore_jax.data.png_writing import Progress, write_png
from seemore_jax.system.files import atomic_write


def write_image(
    path: str | os.PathLike[str],
    image: UInt[np.ndarray, "h w *c"],
    metadata: Metadata | None = None,
    *,
    quality: int | None = None,
    progress: Progress = lambda share: None,
) -> None:
    """Writes an image in the format that the suffix names.

    The file appears only when it is complete.

    Args:
      path: the file, with one of the suffixes in `formats.WRITTEN_SUFFIXES`.
      image: uint8 or uint16: (H, W) grey, (H, W, 2) grey with straight alpha, (H, W, 3) RGB, (H, W, 4) RGB with
        straight alpha.
      metadata: the metadata to write; None writes none. Only metadata that the format can store are written: BMP stores
        only the resolution, GIF stores none. A colour profile is written only if it fits the image's channels.
      quality: from 1 to 100, for JPEG, WebP and AVIF; None for the default. Other formats ignore it.
      progress: called with the fraction that is written. Only PNG calls it before the end.

    Raises:
      ImageError: the format is unknown, the format cannot store 16 bits, transparency or sides of this length, or the
        file cannot be written.
    """
    path, metadata = Path(path), metadata or Metadata()
    check_image_target(path, image)
    try:
        with atomic_write(path) as temporary:
            _write(temporary, image, metadata, quality, progress)
    except (OSError, ValueError) as error:  # ValueError: the format has no images of this size
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: cannot be written: {reason}") from error
    progress(1.0)


def _write(path: Path, image: np.ndarray, metadata: Metadata, quality: int | None, progress: Progress) -> None:
    format = written_format(path)
    height, width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    if format is FORMATS["png"]:
        with path.open("wb") as file:
            write_png(file, image, png_chunks(metadata, channels, width, height), progress)
    elif format is FORMATS["gif"]:
        with path.open("wb") as file:
            write_gif(file, iter([image]), [0], plays=1)
    elif image.dtype == np.uint16:
        tifffile.imwrite(path, image, **tiff_layout(image), **tifffile_options(metadata, channels))
        add_to_tiff(path, metadata, width, height)
    else:
        options = pillow_options(metadata, format, channels, width, height)
        if format.quality is not None:
            options["quality"] = quality or format.quality
        Image.fromarray(np.ascontiguousarray(image)).save(path, format.name.upper(), **options)


def check_image_target(path: str | os.PathLike[str], image: UInt[np.ndarray, "h w *c"]) -> None:
    """Checks that the format that the suffix names can store an image.

    Args:
      path: the file that is to be written.
      image: the image, as for `write_image`; only its type and its channels matter.

    Raises:
      ImageError: the format is unknown, or cannot store 16 bits or transparency.
    """
    format, suffix = written_format(path), Path(path).suffix.lower()
    if image.dtype == np.uint16 and not format.sixteen_bit:
        raise ImageError(f"{path}: {suffix} cannot hold 16 bits; use .png or .tiff")
    if has_alpha(image) and not format.alpha:
        raise ImageError(f"{path}: {suffix} cannot hold transparency; use .png, .webp or .tiff")


def check_sides(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Checks that the format that the suffix names can store images of a size.

    Args:
      path: a file name with a suffix.
      width: the width in pixels.
      height: the height in pixels.

    Raises:
      ImageError: a side is too long.
    """
    longest = written_format(path).longest_side
    if max(width, height) > longest:
        suffix = Path(path).suffix.lower()
        raise ImageError(
            f"{path}: {width}×{height} is too large for {suffix} (at most {longest} pixels a side); use .png"
        )


def tiff_layout(image: UInt[np.ndarray, "h w *c"]) -> dict[str, Any]:
    """Returns the arguments of `tifffile` that say what the channels of an image are.

    Args:
      image: as for `write_image`.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    return {
        "photometric": "minisblack" if channels <= 2 else "rgb",
        "extrasamples": ["unassalpha"] if channels in (2, 4) else None,
        "planarconfig": "contig" if channels > 1 else None,
    }
