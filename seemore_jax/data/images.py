"""The one place where image files are read and written.

Pillow handles everything of 8 bits; 16-bit PNG and TIFF, which it cannot hold in colour, go through imagecodecs
and tifffile.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from jaxtyping import UInt, UInt8
from PIL import Image, ImageOps

from seemore_jax.errors import InputError
from seemore_jax.files import replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # its byte in the file, within the header chunk
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Orientation, as a tag and what it takes to undo: steps along rows and columns, after a transpose from 5 on.
_ORIENTATION = 0x0112
_FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
_QUALITY: dict[str, Any] = {"quality": 95}
_SAVE_OPTIONS = {".jpg": _QUALITY, ".jpeg": _QUALITY, ".webp": _QUALITY}
_NO_ALPHA = (".jpg", ".jpeg", ".bmp")
_SIXTEEN_BIT = (".png", ".tif", ".tiff")


class ImageError(InputError):
    """An image file that cannot be read or written."""


def read_image(path: str | os.PathLike[str]) -> UInt[np.ndarray, "h w *c"]:
    """Reads an image file.

    Returns:
      uint8 or uint16, as in the file: (H, W) for grey, (H, W, 3) for RGB, (H, W, 4) for RGB with
      transparency (straight alpha). Palettes and other colour models become RGB; the EXIF orientation is applied.

    Raises:
      ImageError: the file is missing, damaged, no image, or of more than 16 bits.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            header = file.read(_PNG_BIT_DEPTH + 1)
        if header.startswith(_PNG) and header[_PNG_BIT_DEPTH:] == b"\x10":
            return _read_png16(path)
        if header.startswith(_TIFF) and (image := _read_tiff16(path)) is not None:
            return image
        return _read_pillow(path)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: is a folder, not an image") from error
    except Exception as error:
        # Decoders raise nearly anything on damaged data.
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: not a readable image ({detail})") from error


def write_image(path: str | os.PathLike[str], image: UInt[np.ndarray, "h w *c"]) -> None:
    """Writes an image of the kinds that `read_image` returns, in the format that the suffix names.

    The file appears only when it is complete.

    Raises:
      ImageError: the format is unknown or cannot hold 16 bits or transparency, or the path cannot be written.
    """
    path = Path(path)
    check_image_target(path, image)
    suffix = path.suffix.lower()
    image = np.ascontiguousarray(image)
    try:
        with replacing(path) as temporary:
            if image.dtype != np.uint16:
                Image.fromarray(image).save(temporary, **_SAVE_OPTIONS.get(suffix, {}))
            elif suffix == ".png":
                temporary.write_bytes(imagecodecs.png_encode(image))
            else:
                tifffile.imwrite(temporary, image, photometric="minisblack" if image.ndim == 2 else "rgb")
    except (OSError, ValueError) as error:  # the latter for sides that the format cannot have
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: cannot be written: {reason}") from error


def check_image_target(path: str | os.PathLike[str], image: UInt[np.ndarray, "h w *c"]) -> None:
    """Raises ImageError if the format that the suffix of `path` names cannot hold images like this one."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageError(f"{path}: not an image format that can be written; use {', '.join(SUFFIXES)}")
    if image.dtype == np.uint16 and suffix not in _SIXTEEN_BIT:
        raise ImageError(f"{path}: {suffix} cannot hold 16 bits; use .png or .tiff")
    if image.shape[2:] == (4,) and suffix in _NO_ALPHA:
        raise ImageError(f"{path}: {suffix} cannot hold transparency; use .png, .webp or .tiff")


def to_rgb8(image: UInt[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    """An 8-bit RGB version: grey repeated to three channels, 16 bits rounded to 8, transparency dropped."""
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.ndim == 2:
        image = image[..., None]
    return np.ascontiguousarray(np.broadcast_to(image[..., :3], (*image.shape[:2], 3)))


def _read_pillow(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        # Pillow warns of large images; it refuses enormous ones, which is enough.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        raise ImageError(f"{path}: more than 16 bits for each channel; convert it to 16 bits first")
    has_alpha = image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info
    mode = "RGBA" if has_alpha else "L" if image.mode in ("1", "L") else "RGB"
    return np.asarray(image.convert(mode))


def _read_png16(path: Path) -> np.ndarray:
    with Image.open(path) as header:
        orientation = header.getexif().get(_ORIENTATION, 1)
    image = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    return _upright(_without_grey_alpha(image), orientation)


def _read_tiff16(path: Path) -> np.ndarray | None:
    """The first page of a 16-bit TIFF, or None for 8 bits, which are left to Pillow."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if page.dtype != np.uint16:
            return None
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
        is_plain = page.planarconfig == tifffile.PLANARCONFIG.CONTIG and page.bitspersample == 16
        straight_alpha = all(sample == tifffile.EXTRASAMPLE.UNASSALPHA for sample in page.extrasamples)
        if photometric not in ("MINISBLACK", "RGB") or not is_plain or not straight_alpha:
            raise ImageError(
                f"{path}: a 16-bit TIFF of an unsupported kind ({photometric}, {page.bitspersample} bits); "
                "save it as grey or RGB, interleaved, with straight alpha"
            )
        orientation = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
        image = page.asarray()
    return _upright(_without_grey_alpha(image), orientation)


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes the orientation (1 to 8) of EXIF and TIFF."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    vertical, horizontal = _FLIPS.get(orientation, (1, 1))
    return np.ascontiguousarray(image[::vertical, ::horizontal])


def _without_grey_alpha(image: np.ndarray) -> np.ndarray:
    """Grey with transparency as RGB with transparency; everything else unchanged."""
    if image.shape[2:] != (2,):
        return image
    return image[..., [0, 0, 0, 1]]
