"""Reads image files with one image; `series` reads animations and documents of several pages.

Pillow reads all images of 8 bits. Pillow has no colour images of 16 bits, so imagecodecs reads 16-bit PNG files, and
tifffile reads 16-bit TIFF files.
"""

import contextlib
import dataclasses
import io
import math
import os
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile
from jaxtyping import UInt, UInt8
from PIL import Image, ImageCms, TiffImagePlugin

from seemore_jax.data.formats import MAX_PIXELS, SUFFIXES, ImageError  # noqa: F401 (SUFFIXES, for other modules)
from seemore_jax.data.image_files import (
    ORIENTATION,
    check_size,
    check_sums,
    count_frames,
    count_pages,
    first_bytes,
    is_deep_png,
    open_image,
    orientation_of,
    page_indices,
    reading,
    upright,
)
from seemore_jax.data.metadata import Metadata

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# A JPEG file has at least one bit for each block of 8×8 pixels.
_MOST_PIXELS_PER_BYTE = 8 * 64


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
      ImageError: the file is missing, damaged, not an image or of a format that is not supported, has several images,
        more than 16 bits for each channel, or more than `max_pixels` pixels.
    """
    with reading(Path(path)):
        _check_single(Path(path))
        return _read(Path(path), max_pixels)


def read_image(path: str | os.PathLike[str]) -> UInt[np.ndarray, "h w *c"]:
    """Reads the pixels of an image file, and applies the EXIF orientation.

    If the file has several images, the first one is read.

    Args:
      path: the file. The format is recognised by the content, not by the suffix.

    Returns:
      uint8 or uint16, as in the file: (H, W) for grey, (H, W, 3) for RGB, (H, W, 4) for RGB or grey with straight
      alpha. Images with palettes and other colour models are converted to RGB.

    Raises:
      ImageError: the file is missing, damaged, not an image or of a format that is not supported, has more than 16 bits
        for each channel, or more than `MAX_PIXELS` pixels.
    """
    with reading(Path(path)):
        return without_grey_alpha(_read(Path(path), MAX_PIXELS).pixels)


def read_page(path: str | os.PathLike[str], page: int, max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads one page of a TIFF file, like `read_picture`.

    Args:
      path: the TIFF file.
      page: the index of the page.
      max_pixels: the largest number of pixels, as for `read_picture`.

    Raises:
      ImageError: as for `read_picture`.
    """
    with reading(Path(path)):
        return _read_tiff(Path(path), max_pixels, page)


class Header(NamedTuple):
    """The header of an image file.

    Attributes:
      width: the width in pixels, before the EXIF orientation is applied.
      height: the height in pixels, before the EXIF orientation is applied.
      kind: the format and Pillow's mode, such as "PNG RGB".
      frames: the number of frames of an animation; 1 for everything else.
      pages: the number of pages in a TIFF file, of pictures in a HEIC file; 1 for everything else.
    """

    width: int
    height: int
    kind: str
    frames: int = 1
    pages: int = 1


def read_header(path: str | os.PathLike[str]) -> Header | None:
    """Reads the header of an image file, without decoding the pixels.

    Args:
      path: the file.

    Returns:
      The header, or None if it cannot be read.
    """
    with contextlib.suppress(ImageError), reading(Path(path)):
        return _header(Path(path))
    return None


def _header(path: Path) -> Header:
    with open_image(path) as image:
        return Header(*image.size, f"{image.format} {image.mode}", count_frames(image), count_pages(path, image))


def _read(path: Path, max_pixels: int) -> Picture:
    """Reads the first image of a file."""
    if is_deep_png(path):
        return _read_png16(path, max_pixels)
    if first_bytes(path, 4) in _TIFF:
        return _read_tiff(path, max_pixels, 0)
    return _read_pillow(path, max_pixels)


def _check_single(path: Path) -> None:
    """Raises ImageError for animations and for documents of several pages, because only one image would be kept."""
    try:
        header = _header(path)
    except Image.UnidentifiedImageError:  # Pillow does not know the kind, such as a 16-bit TIFF of grey with alpha
        pages = len(page_indices(path)) if first_bytes(path, 4) in _TIFF else 1
        header = Header(0, 0, "", pages=pages)
    if header.frames > 1:
        raise ImageError(f"{path}: an animation of {header.frames} frames, not a single image")
    if header.pages > 1:
        raise ImageError(f"{path}: {header.pages} pages or pictures, not a single image")


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


def _read_pillow(path: Path, max_pixels: int, page: int = 0) -> Picture:
    check_sums(path)
    with open_image(path) as image:
        if page:
            image.seek(page)
        check_size(path, *image.size, max_pixels)
        _check_length(path, image)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tile:
            # If the image has no memory yet, Pillow applies its own limit on the number of pixels again.
            image.im = Image.core.new(image.mode, image._tile_size)
        image.load()  # raises for damaged data; reading EXIF may load them too, but would hide the exception
        metadata, orientation = Metadata.of(image), orientation_of(image)
    return Picture(upright(_pixels(path, image, metadata), orientation), metadata)


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


def _check_length(path: Path, image: Image.Image) -> None:
    """Raises ImageError for a JPEG file that is too short for its size: Pillow would fill what is missing with grey."""
    length = path.stat().st_size
    if image.format == "JPEG" and image.width * image.height > _MOST_PIXELS_PER_BYTE * length:
        raise ImageError(f"{path}: claims {image.width:,}×{image.height:,} pixels, but has only {length:,} bytes")


def _cmyk_to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts CMYK to sRGB by the file's profile, or without a usable profile by Pillow's simple formula."""
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


def _read_png16(path: Path, max_pixels: int) -> Picture:
    with open_image(path) as header:
        check_size(path, *header.size, max_pixels)
        metadata, orientation = Metadata.of(header), orientation_of(header)
    image = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    return Picture(upright(image, orientation), metadata)


def _read_tiff(path: Path, max_pixels: int, page: int) -> Picture:
    picture = _read_tiff16(path, max_pixels, page)
    return _read_pillow(path, max_pixels, page) if picture is None else picture


def _read_tiff16(path: Path, max_pixels: int, index: int) -> Picture | None:
    """Reads a page of a 16-bit TIFF. Returns None for 8 bits, which Pillow reads."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first if not index else file.pages[index]
        assert isinstance(page, tifffile.TiffPage)
        if len(page.dataoffsets) < (needed := math.prod(page.chunked)):  # Pillow would fill the missing part with black
            raise ImageError(f"{path}: damaged: {len(page.dataoffsets):,} of {needed:,} strips or tiles are there")
        if page.dtype is not None and (page.dtype.kind in "fc" or page.dtype.itemsize > 2):
            raise ImageError(f"{path}: {page.dtype}, more than 16 bits for each channel; convert it to 16 bits first")
        if page.dtype != np.uint16:
            return None
        check_size(path, page.imagewidth, page.imagelength, max_pixels)
        photometric = tifffile.PHOTOMETRIC(page.photometric).name
        is_plain = page.planarconfig == tifffile.PLANARCONFIG.CONTIG and page.bitspersample == 16
        straight_alpha = all(sample == tifffile.EXTRASAMPLE.UNASSALPHA for sample in page.extrasamples)
        if photometric not in ("MINISBLACK", "RGB") or not is_plain or not straight_alpha or page.samplesperpixel > 4:
            raise ImageError(
                f"{path}: a 16-bit TIFF of an unsupported kind ({photometric}, {page.bitspersample} bits); "
                "save it as grey or RGB, interleaved, with straight alpha"
            )
        orientation = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
        image = page.asarray()
    return Picture(upright(image, orientation), _tiff_metadata(path, index))


def _tiff_metadata(path: Path, page: int) -> Metadata:
    try:
        with open_image(path) as header:
            if page:
                header.seek(page)
            return Metadata.of(header)
    except Image.UnidentifiedImageError:  # Pillow does not know the kind, such as grey with alpha
        return Metadata()


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
