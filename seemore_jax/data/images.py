"""Reading of image files; `image_writing` writes them.

Pillow handles everything of 8 bits; 16-bit PNG and TIFF, which it cannot hold in colour, go through imagecodecs
and tifffile.
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
# Beyond it a file is refused before it is decoded: a few bytes can claim any size.
MAX_PIXELS = 178_956_970

# Readers that Pillow may use, whatever the suffix: its others include ones that start programs.
_READERS = (
    *(PngImagePlugin.PngImageFile, JpegImagePlugin.JpegImageFile),
    *(WebPImagePlugin.WebPImageFile, TiffImagePlugin.TiffImageFile, BmpImagePlugin.BmpImageFile),
    *(GifImagePlugin.GifImageFile, PpmImagePlugin.PpmImageFile),
)
_ANIMATED = ("PNG", "WEBP", "GIF")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # its byte in the file, within the header chunk
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Orientation, as a tag and what it takes to undo: steps along rows and columns, after a transpose from 5 on.
_ORIENTATION = 0x0112
_FLIPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
# Of JPEG: a bit at least for each block of 8×8.
_MOST_PIXELS_PER_BYTE = 8 * 64


class ImageError(InputError):
    """An image file that cannot be read or written."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image file's content.

    Attributes:
      pixels: uint8 or uint16: (H, W) grey, (H, W, 2) grey with straight alpha, (H, W, 3) RGB, (H, W, 4) RGB with
        straight alpha.
      metadata: what else is to be carried over.
    """

    pixels: UInt[np.ndarray, "h w *c"]
    metadata: Metadata = dataclasses.field(default_factory=Metadata)


def read_picture(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads an image file with its metadata, upright.

    Palettes and other colour models become RGB; a profile of CMYK is applied.

    Args:
      path: the file; its content tells the format, whatever its suffix.
      max_pixels: a file that claims more is refused before it is decoded.

    Raises:
      ImageError: the file is missing, damaged, no image, of more than 16 bits or `max_pixels`, or holds several.
    """
    return _read(Path(path), max_pixels, single=True)


def read_image(path: str | os.PathLike[str]) -> UInt[np.ndarray, "h w *c"]:
    """Reads an image file; of several images in one file, the first.

    Returns:
      uint8 or uint16, as in the file: (H, W) for grey, (H, W, 3) for RGB, (H, W, 4) for RGB with
      transparency (straight alpha). Palettes and other colour models become RGB; the EXIF orientation is applied.

    Raises:
      ImageError: the file is missing, damaged, no image, or of more than 16 bits or `MAX_PIXELS`.
    """
    return without_grey_alpha(_read(Path(path), MAX_PIXELS, single=False).pixels)


class Header(NamedTuple):
    """What an image file says of itself, before it is turned upright: sides in pixels, format and colour model."""

    width: int
    height: int
    kind: str


def read_header(path: str | os.PathLike[str]) -> Header | None:
    """A file's header, without decoding it; None if it cannot be read."""
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
        # Decoders raise nearly anything on damaged data.
        raise ImageError(f"{path}: not a readable image ({one_line(error)})") from error


def _require_file(path: Path) -> None:
    """Raises ImageError for pipes and devices: opening them may wait, and reading them never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ImageError(f"{path}: is a pipe, a socket or a device, not a file")


def _open(path: Path) -> Image.Image:
    """Reads the header, as `Image.open`, but for its limit of size, whose message would not tell what to do."""
    with path.open("rb") as file:
        beginning = file.read(16)
    for reader in _READERS:
        make: Any
        make, accepts = Image.OPEN[reader.format]
        if accepts is None or accepts(beginning) is True:
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # not of this format after all
                return make(path)
    raise Image.UnidentifiedImageError


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: claims {width:,}×{height:,} pixels, more than {max_pixels:,}; "
            f"if that is right, allow it with --max_pixels={width * height}"
        )


def has_alpha(image: UInt[np.ndarray, "h w *c"]) -> bool:
    """Returns whether the last of an image's channels is transparency: it has two or four."""
    return image.shape[2:] in ((2,), (4,))


def to_8_bits(image: UInt[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
    """16 bits rounded to 8; 8 bits unchanged."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_rgb8(image: UInt[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    """An 8-bit RGB version: grey repeated to three channels, 16 bits rounded to 8, transparency dropped."""
    image = to_8_bits(image)
    if image.ndim == 2:
        image = image[..., None]
    return np.ascontiguousarray(np.broadcast_to(image[..., :3], (*image.shape[:2], 3)))


def _read_pillow(path: Path, max_pixels: int, *, single: bool) -> Picture:
    if _is_png(path):
        _check_sums(path)
    with _open(path) as image:
        _check_size(path, *image.size, max_pixels)
        _check_length(path, image)
        if single:
            _check_single(path, image)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tile:
            # Where the image has no memory yet, Pillow applies its limit of size again.
            image.im = Image.core.new(image.mode, image._tile_size)
        image.load()  # damaged data raise here; looking for EXIF may load as well, and hides what that raises
        metadata, orientation = Metadata.of(image), _orientation(image)
    return Picture(_upright(_pixels(path, image, metadata), orientation), metadata)


def _pixels(path: Path, image: Image.Image, metadata: Metadata) -> UInt[np.ndarray, "h w *c"]:
    """What Pillow read, in one of the kinds of a `Picture`."""
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
        return np.asarray(image.convert("RGBA"))[..., 2:]  # Pillow forgets the transparent grey on the way to LA
    return np.asarray(image if image.mode == mode else image.convert(mode))  # convert copies in any case


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PNG)) == _PNG


def _check_sums(path: Path) -> None:
    """Raises for a PNG file whose checksums are wrong: Pillow skips those of the pixels."""
    with _open(path) as image:
        image.verify()


def _check_length(path: Path, image: Image.Image) -> None:
    """Raises ImageError for a JPEG file too short for its size: what is missing would be grey, and take memory."""
    length = path.stat().st_size
    if image.format == "JPEG" and image.width * image.height > _MOST_PIXELS_PER_BYTE * length:
        raise ImageError(f"{path}: claims {image.width:,}×{image.height:,} pixels, but has only {length:,} bytes")


def _check_single(path: Path, image: Image.Image) -> None:
    """Raises ImageError for animations and for documents of several pages, of which one would be lost.

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
    """By the file's profile, to sRGB; without one, or with a damaged one, by the simple formula."""
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
    """The first page of a 16-bit TIFF, or None for 8 bits, which are left to Pillow."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if len(page.dataoffsets) < (needed := math.prod(page.chunked)):  # Pillow would leave black what is missing
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
    except Image.UnidentifiedImageError:  # a kind that Pillow does not know, such as grey with alpha
        return Metadata()


def _orientation(image: Image.Image) -> int:
    """As its EXIF says; 1 if there is none, or a damaged one."""
    with contextlib.suppress(Exception):  # nearly anything is raised on damaged data
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes the orientation of EXIF and TIFF; what is none of 1 to 8 does nothing."""
    if 5 <= orientation <= 8:
        image = image.swapaxes(0, 1)
    vertical, horizontal = _FLIPS.get(orientation, (1, 1))
    return np.ascontiguousarray(image[::vertical, ::horizontal])


def without_grey_alpha(image: np.ndarray) -> np.ndarray:
    """Grey with transparency as RGB with transparency; everything else unchanged."""
    if image.shape[2:] != (2,):
        return image
    return image[..., [0, 0, 0, 1]]
