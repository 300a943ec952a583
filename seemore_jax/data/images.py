"""Reads image files; `image_writing` writes them.

Pillow reads all images of 8 bits. Pillow has no colour images of 16 bits, so imagecodecs reads 16-bit PNG files, and
tifffile reads 16-bit TIFF files.
"""

import contextlib
import dataclasses
import io
import math
import os
import stat
import struct
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from jaxtyping import UInt, UInt8
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from seemore_jax.data.decoder_messages import decoder_warnings_off, libtiff_messages_off
from seemore_jax.data.metadata import Metadata
from seemore_jax.system.errors import InputError, one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
# By default, an image with more pixels is refused before it is decoded, because a file of a few bytes can claim any
# size.
MAX_PIXELS = 178_956_970

# The only readers of Pillow that are used, for files with any suffix. Some of its other readers start programs.
_READERS = (
    *(PngImagePlugin.PngImageFile, JpegImagePlugin.JpegImageFile),
    *(WebPImagePlugin.WebPImageFile, TiffImagePlugin.TiffImageFile, BmpImagePlugin.BmpImageFile),
    *(GifImagePlugin.GifImageFile, PpmImagePlugin.PpmImageFile),
)
_ANIMATED = ("PNG", "WEBP", "GIF")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # the index of the byte in the file that has the bit depth
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# The EXIF tag of the orientation, and how each orientation is undone: the steps of slices along rows and columns, after
# a transposition for the values 5 to 8.
_ORIENTATION = 0x0112
_FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
# A JPEG file has at least one bit for each block of 8×8 pixels.
_MOST_PIXELS_PER_BYTE = 8 * 64


class ImageError(InputError):
    """An error about an image file that cannot be read or written."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """The content of an image file.

    Attributes:
      pixels: uint8 or uint16: (H, W) grey, (H, W, 2) grey with straight alpha, (H, W, 3) RGB, (H, W, 4) RGB with
        straight alpha.
      metadata: the colour profile, EXIF and resolution.
    """

    pixels: UInt[np.ndarray, "h w *c"]
    metadata: Metadata = dataclasses.field(default_factory=Metadata)


def read_picture(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads an image file with its metadata, and applies the EXIF orientation.

    Images with palettes and other colour models are converted to RGB. CMYK is converted by the file's colour profile.

    Args:
      path: the file. The format is recognised by the content, not by the suffix.
      max_pixels: the largest number of pixels. A file that claims more is refused before it is decoded.

    Returns:
      The pixels and the metadata.

    Raises:
      ImageError: the file is missing, damaged or not an image, has several images, more than 16 bits for each channel,
        or more than `max_pixels` pixels.
    """
    return _read(Path(path), max_pixels, single=True)


def read_image(path: str | os.PathLike[str]) -> UInt[np.ndarray, "h w *c"]:
    """Reads the pixels of an image file, and applies the EXIF orientation.

    If the file has several images, the first one is read.

    Args:
      path: the file. The format is recognised by the content, not by the suffix.

    Returns:
      uint8 or uint16, as in the file: (H, W) for grey, (H, W, 3) for RGB, (H, W, 4) for RGB or grey with straight
      alpha. Images with palettes and other colour models are converted to RGB.

    Raises:
      ImageError: the file is missing, damaged or not an image, has more than 16 bits for each channel, or more than
        `MAX_PIXELS` pixels.
    """
    return without_grey_alpha(_read(Path(path), MAX_PIXELS, single=False).pixels)


class Header(NamedTuple):
    """The header of an image file.

    Attributes:
      width: the width in pixels, before the EXIF orientation is applied.
      height: the height in pixels, before the EXIF orientation is applied.
      kind: the format and Pillow's mode, such as "PNG RGB".
    """

    width: int
    height: int
    kind: str


def read_header(path: str | os.PathLike[str]) -> Header | None:
    """Reads the header of an image file, without decoding the pixels.

    Args:
      path: the file.

    Returns:
      The header, or None if it cannot be read.
    """
    try:
        _require_file(Path(path))
        with decoder_warnings_off, _open(Path(path)) as image:
            return Header(*image.size, f"{image.format} {image.mode}")
    except Exception:  # as in `_read`
        return None


def _read(path: Path, max_pixels: int, *, single: bool) -> Picture:
    try:
        _require_file(path)
        with path.open("rb") as file:
            header = file.read(_PNG_BIT_DEPTH + 1)
        with decoder_warnings_off:
            if header.startswith(_PNG) and header[_PNG_BIT_DEPTH:] == b"\x10":
                return _read_png16(path, max_pixels, single=single)
            if header.startswith(_TIFF):
                return _read_tiff(path, max_pixels, single=single)
            return _read_pillow(path, max_pixels, single=single)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: is a folder, not an image") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{path}: not a readable image (of no known format, or its header is damaged)") from error
    except Exception as error:
        # Decoders raise nearly any exception for damaged data.
        raise ImageError(f"{path}: not a readable image ({one_line(error)})") from error


def _require_file(path: Path) -> None:
    """Raises ImageError for pipes and devices, because opening or reading them may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ImageError(f"{path}: is a pipe, a socket or a device, not a file")


def _open(path: Path) -> Image.Image:
    """Reads the header like `Image.open`, but without Pillow's own limit on the number of pixels."""
    with path.open("rb") as file:
        beginning = file.read(16)
    for reader in _READERS:
        make: Any
        make, accepts = Image.OPEN[reader.format]
        if accepts is None or accepts(beginning) is True:
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # the file has another format
                return make(path)
    raise Image.UnidentifiedImageError


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: claims {width:,}×{height:,} pixels, more than {max_pixels:,}; "
            f"if that is right, allow it with --max_pixels={width * height}"
        )


def has_alpha(image: UInt[np.ndarray, "h w *c"]) -> bool:
    """Returns whether an image has transparency, that is, two or four channels.

    Args:
      image: (H, W) or (H, W, C).
    """
    return image.shape[2:] in ((2,), (4,))


def to_8_bits(image: UInt[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
    """Converts an image to 8 bits: rounds 16 bits, and returns 8 bits unchanged.

    Args:
      image: uint8 or uint16, (H, W) or (H, W, C).

    Returns:
      uint8, with the shape of `image`.
    """
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_rgb8(image: UInt[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    """Converts an image to 8-bit RGB: repeats grey in three channels, rounds 16 bits, and drops transparency.

    Args:
      image: uint8 or uint16; (H, W) or (H, W, 1 to 4).

    Returns:
      uint8, (H, W, 3).
    """
    image = to_8_bits(image)
    if image.ndim == 2:
        image = image[..., None]
    colors = image[..., :3] if image.shape[2] > 2 else image[..., :1]
    return np.ascontiguousarray(np.broadcast_to(colors, (*image.shape[:2], 3)))


def _read_pillow(path: Path, max_pixels: int, *, single: bool) -> Picture:
    if _is_png(path):
        _check_sums(path)
    with _open(path) as image:
        _check_size(path, *image.size, max_pixels)
        _check_length(path, image)
        if single:
            _check_single(path, image)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tile:
            # If the image has no memory yet, Pillow applies its own limit on the number of pixels again.
            image.im = Image.core.new(image.mode, image._tile_size)
        image.load()  # raises for damaged data; reading EXIF may load them too, but would hide the exception
        metadata, orientation = Metadata.of(image), _orientation(image)
    return Picture(_upright(_pixels(path, image, metadata), orientation), metadata)


def _pixels(path: Path, image: Image.Image, metadata: Metadata) -> UInt[np.ndarray, "h w *c"]:
    """Converts a Pillow image to the array of a `Picture`."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        raise ImageError(f"{path}: more than 16 bits for each channel; convert it to 16 bits first")
    if image.mode == "CMYK":
        image = _cmyk_to_rgb(image, metadata.icc_profile)
    transparent = image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info
    is_grey = image.mode in ("1", "L", "LA", "La")
    mode = {(False, False): "RGB", (False, True): "RGBA", (True, False): "L", (True, True): "LA"}[is_grey, transparent]
    return _as_array(image, mode)


def _as_array(image: Image.Image, mode: str) -> np.ndarray:
    if mode == "LA" and image.mode != "LA":
        return np.asarray(image.convert("RGBA"))[..., 2:]  # Pillow's conversion to LA ignores a transparent grey
    return np.asarray(image if image.mode == mode else image.convert(mode))  # convert always copies


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PNG)) == _PNG


def _check_sums(path: Path) -> None:
    """Raises an exception for a PNG file with wrong checksums; Pillow does not check those of the pixels."""
    with _open(path) as image:
        image.verify()


def _check_length(path: Path, image: Image.Image) -> None:
    """Raises ImageError for a JPEG file that is too short for its size: Pillow would fill what is missing with grey."""
    length = path.stat().st_size
    if image.format == "JPEG" and image.width * image.height > _MOST_PIXELS_PER_BYTE * length:
        raise ImageError(f"{path}: claims {image.width:,}×{image.height:,} pixels, but has only {length:,} bytes")


def _check_single(path: Path, image: Image.Image) -> None:
    """Raises ImageError for animations and for documents of several pages, because only one image would be kept.

    Smaller versions of the same picture, which cameras append, do not count.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in _ANIMATED:
        raise ImageError(f"{path}: an animation of {frames} frames; only single images can be upscaled")
    if frames > 1 and image.format == "TIFF":
        with tifffile.TiffFile(path) as file:
            _check_one_page(path, file)


def _check_one_page(path: Path, file: tifffile.TiffFile) -> None:
    pages = sum(not (isinstance(page, tifffile.TiffPage) and page.is_reduced) for page in file.pages[1:]) + 1
    if pages > 1:
        raise ImageError(f"{path}: {pages} pages; only single images can be upscaled: split it first")


def _cmyk_to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts CMYK to sRGB by the file's profile, or without a usable profile by Pillow's simple formula."""
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


def _read_png16(path: Path, max_pixels: int, *, single: bool) -> Picture:
    with _open(path) as header:
        _check_size(path, *header.size, max_pixels)
        if single:
            _check_single(path, header)
        metadata, orientation = Metadata.of(header), _orientation(header)
    image = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    return Picture(_upright(image, orientation), metadata)


def _read_tiff(path: Path, max_pixels: int, *, single: bool) -> Picture:
    with libtiff_messages_off:
        picture = _read_tiff16(path, max_pixels, single=single)
        return _read_pillow(path, max_pixels, single=single) if picture is None else picture


def _read_tiff16(path: Path, max_pixels: int, *, single: bool) -> Picture | None:
    """Reads the first page of a 16-bit TIFF. Returns None for 8 bits, which Pillow reads."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if len(page.dataoffsets) < (needed := math.prod(page.chunked)):  # Pillow would fill the missing part with black
            raise ImageError(f"{path}: damaged: {len(page.dataoffsets):,} of {needed:,} strips or tiles are there")
        if page.dtype != np.uint16:
            return None
        _check_size(path, page.imagewidth, page.imagelength, max_pixels)
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
        is_plain = page.planarconfig == tifffile.PLANARCONFIG.CONTIG and page.bitspersample == 16
        straight_alpha = all(sample == tifffile.EXTRASAMPLE.UNASSALPHA for sample in page.extrasamples)
        if photometric not in ("MINISBLACK", "RGB") or not is_plain or not straight_alpha or page.samplesperpixel > 4:
            raise ImageError(
                f"{path}: a 16-bit TIFF of an unsupported kind ({photometric}, {page.bitspersample} bits); "
                "save it as grey or RGB, interleaved, with straight alpha"
            )
        if single:
            _check_one_page(path, file)
        orientation = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
        image = page.asarray()
    return Picture(_upright(image, orientation), _tiff_metadata(path))


def _tiff_metadata(path: Path) -> Metadata:
    try:
        with _open(path) as header:
            return Metadata.of(header)
    except Image.UnidentifiedImageError:  # Pillow does not know the kind, such as grey with alpha
        return Metadata()


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, or 1 if EXIF is missing or damaged."""
    with contextlib.suppress(Exception):  # Pillow raises nearly any exception for damaged data
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image upright by its EXIF orientation; values other than 1 to 8 change nothing."""
    if 5 <= orientation <= 8:
        image = image.swapaxes(0, 1)
    vertical, horizontal = _FLIPS.get(orientation, (1, 1))
    return np.ascontiguousarray(image[::vertical, ::horizontal])


def without_grey_alpha(image: np.ndarray) -> np.ndarray:
    """Converts grey with transparency to RGB with transparency, and returns all other images unchanged.

    Args:
      image: (H, W) or (H, W, C).

    Returns:
      (H, W, 4) for two channels, otherwise `image`.
    """
    if image.shape[2:] != (2,):
        return image
    return image[..., [0, 0, 0, 1]]
