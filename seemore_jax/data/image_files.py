"""Opens image files with the decoders that are allowed, and reports what is wrong with a file in one line."""

import contextlib
import importlib
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from seemore_jax.data.decoder_messages import decoder_warnings_off, libtiff_messages_off
from seemore_jax.data.formats import HEIC_MODULE, SIGNATURE_BYTES, ImageError, has_heic, may_be_heic, unsupported_kind
from seemore_jax.system.errors import one_line

# The only readers of Pillow that are used, for files with any suffix. Some of its other readers start programs.
_READERS = (
    *(PngImagePlugin.PngImageFile, JpegImagePlugin.JpegImageFile),
    *(WebPImagePlugin.WebPImageFile, TiffImagePlugin.TiffImageFile, BmpImagePlugin.BmpImageFile),
    *(GifImagePlugin.GifImageFile, PpmImagePlugin.PpmImageFile, AvifImagePlugin.AvifImageFile),
)
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # the index of the byte in the file that has the bit depth
_ANIMATED = ("PNG", "WEBP", "GIF", "AVIF")
# The EXIF tag of the orientation, and how each orientation is undone: the steps of slices along rows and columns, after
# a transposition for the values 5 to 8.
ORIENTATION = 0x0112
_FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Silences the decoders while a file is read, and raises all that they raise as ImageError.

    Args:
      path: the file.

    Raises:
      ImageError: the file is missing, no file, of a format that is not supported, or damaged. The message is one line.
    """
    try:
        _require_file(path)
        with decoder_warnings_off, libtiff_messages_off:
            yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: is a folder, not an image") from error
    except Image.UnidentifiedImageError as error:
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: is empty: it has no bytes") from error
        kind = unsupported_kind(path, first_bytes(path, SIGNATURE_BYTES))
        if kind is not None:
            raise ImageError(f"{path}: not supported: {kind}") from error
        raise ImageError(f"{path}: not a readable image (of no known format, or its header is damaged)") from error
    except OSError as error:  # those of decoders have no number
        reason = f"cannot be read: {error.strerror}" if error.errno else f"not a readable image ({one_line(error)})"
        raise ImageError(f"{path}: {reason}") from error
    except Exception as error:
        # Decoders raise nearly any exception for damaged data.
        raise ImageError(f"{path}: not a readable image ({one_line(error)})") from error


def _require_file(path: Path) -> None:
    """Raises ImageError for pipes and devices, because opening or reading them may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ImageError(f"{path}: is a pipe, a socket or a device, not a file")


def first_bytes(path: Path, count: int) -> bytes:
    """Returns the first bytes of a file, all of them if it has fewer than `count`."""
    with path.open("rb") as file:
        return file.read(count)


def open_image(path: Path) -> Image.Image:
    """Reads the header like `Image.open`, but without Pillow's own limit on the number of pixels.

    Args:
      path: the file.

    Raises:
      UnidentifiedImageError: no reader recognises the file.
      OSError: the file cannot be opened.
    """
    beginning = first_bytes(path, 16)
    for reader in _READERS:
        make: Any
        make, accepts = Image.OPEN[reader.format]
        if accepts is None or accepts(beginning) is True:
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # the file has another format
                return make(path)
    if has_heic() and may_be_heic(beginning):
        with contextlib.suppress(SyntaxError):
            return importlib.import_module(f"{HEIC_MODULE}.as_plugin").HeifImageFile(path)
    raise Image.UnidentifiedImageError


def is_deep_png(path: Path) -> bool:
    """Returns whether a file is a PNG file with 16 bits for each channel."""
    beginning = first_bytes(path, _PNG_BIT_DEPTH + 1)
    return beginning.startswith(_PNG) and beginning[_PNG_BIT_DEPTH:] == b"\x10"


def check_sums(path: Path) -> None:
    """Raises an exception for a PNG file with wrong checksums; Pillow does not check those of the pixels."""
    if first_bytes(path, len(_PNG)) == _PNG:
        with open_image(path) as image:
            image.verify()


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError if an image has more than `max_pixels` pixels."""
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: claims {width:,}×{height:,} pixels, more than {max_pixels:,}; "
            f"if that is right, allow it with --max_pixels={width * height}"
        )


def count_frames(image: Image.Image) -> int:
    """Returns the number of frames of an animation; 1 for everything else.

    Args:
      image: an image that `open_image` has opened.
    """
    if image.format not in _ANIMATED:
        return 1
    # The first image of a PNG file may be what programs show that know no animations.
    return max(1, getattr(image, "n_frames", 1) - first_frame(image))


def count_pages(path: Path, image: Image.Image) -> int:
    """Returns the number of pages of a TIFF file, and of pictures in a HEIC file; 1 for everything else.

    Args:
      path: the file.
      image: the same file, opened by `open_image`.
    """
    if image.format == "TIFF":
        return len(page_indices(path))
    return getattr(image, "n_frames", 1) if image.format == "HEIF" else 1


def first_frame(image: Image.Image) -> int:
    """Returns the index of the first frame of an animation: 1 if a picture before it does not belong to it."""
    return int(bool(getattr(image, "default_image", False)))


def page_indices(path: Path) -> list[int]:
    """Returns the indices of the pages in a TIFF file.

    Smaller versions of the same picture, which cameras append, do not count.

    Args:
      path: the TIFF file.
    """
    with tifffile.TiffFile(path) as file:
        # A slice, because iteration would not end in a file whose last page names an earlier one as the next.
        following = enumerate(file.pages[1:], 1)
        return [
            0,
            *(index for index, page in following if not (isinstance(page, tifffile.TiffPage) and page.is_reduced)),
        ]


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation, or 1 if EXIF is missing or damaged."""
    with contextlib.suppress(Exception):  # Pillow raises nearly any exception for damaged data
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image upright by its EXIF orientation; values other than 1 to 8 change nothing.

    Args:
      image: (H, W) or (H, W, C).
      orientation: the value of the EXIF tag.
    """
    if 5 <= orientation <= 8:
        image = image.swapaxes(0, 1)
    vertical, horizontal = _FLIPS.get(orientation, (1, 1))
    return np.ascontiguousarray(image[::vertical, ::horizontal])
