"""The formats of image files: their suffixes, and what their files can hold.

This module imports no decoder, so that the command line can name the formats quickly.
"""

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Literal

from seemore_jax.system.errors import InputError

# By default, an image with more pixels is refused before it is decoded, because a file of a few bytes can claim any
# size.
MAX_PIXELS = 178_956_970
_NO_LIMIT = 2**31 - 1


class ImageError(InputError):
    """An error about an image file that cannot be read or written."""


@dataclasses.dataclass(frozen=True)
class Format:
    """What the files of a format can hold.

    Attributes:
      name: the name that users know.
      suffixes: the suffixes of its files. The first one is that of new files.
      written: whether files are written in this format, or only read.
      sixteen_bit: whether it holds 16 bits for each channel.
      alpha: whether it holds transparency.
      several: what several images in one file are: "frames" of an animation, "pages" of a document, or nothing.
      quality: the quality from 1 to 100 with which files are written by default; None if the format has none.
      longest_side: the largest number of pixels in a row or column.
    """

    name: str
    suffixes: tuple[str, ...]
    written: bool = True
    sixteen_bit: bool = False
    alpha: bool = True
    several: Literal["frames", "pages"] | None = None
    quality: int | None = None
    longest_side: int = _NO_LIMIT


# By the name that `--format` takes.
FORMATS = {
    "png": Format("PNG", (".png", ".apng"), sixteen_bit=True, several="frames"),
    "jpg": Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), alpha=False, quality=95, longest_side=65500),
    "webp": Format("WebP", (".webp",), several="frames", quality=95, longest_side=16383),
    "avif": Format("AVIF", (".avif",), several="frames", quality=90, longest_side=65536),
    "tiff": Format("TIFF", (".tiff", ".tif"), sixteen_bit=True, several="pages"),
    "gif": Format("GIF", (".gif",), several="frames", longest_side=65535),
    "bmp": Format("BMP", (".bmp",), alpha=False),
    "netpbm": Format("Netpbm", (".ppm", ".pgm", ".pbm", ".pnm"), written=False),
    "heic": Format("HEIC", (".heic", ".heif", ".hif"), written=False),
}
_BY_SUFFIX = {suffix: each for each in FORMATS.values() for suffix in each.suffixes}
# What HEIC needs beside this package: the module, and the extra that installs it.
HEIC_MODULE, HEIC_HINT = "pillow_heif", "pip install 'seemore-jax[heic]'"
# The suffixes of files that are read with what is always installed, and of files that are written.
SUFFIXES = tuple(suffix for suffix, each in _BY_SUFFIX.items() if each is not FORMATS["heic"])
WRITTEN_SUFFIXES = tuple(suffix for suffix, each in _BY_SUFFIX.items() if each.written)


def format_of(path: str | os.PathLike[str]) -> Format | None:
    """Returns the format that the suffix of a file names; None if it is none of `FORMATS`.

    Args:
      path: the file, which need not exist.
    """
    return _BY_SUFFIX.get(Path(path).suffix.lower())


def written_format(path: str | os.PathLike[str]) -> Format:
    """Returns the format in which a file is written.

    Args:
      path: the file.

    Raises:
      ImageError: the suffix names no format that can be written.
    """
    found = format_of(path)
    if found is None or not found.written:
        raise ImageError(f"{path}: not an image format that can be written; use {', '.join(WRITTEN_SUFFIXES)}")
    return found


def is_supported(path: str | os.PathLike[str]) -> bool:
    """Returns whether files with the suffix of this one can be read here.

    Args:
      path: the file, which need not exist.
    """
    found = format_of(path)
    return found is not None and (found is not FORMATS["heic"] or has_heic())


def has_heic() -> bool:
    """Returns whether HEIC files can be read, for which the extra `heic` is needed."""
    return importlib.util.find_spec(HEIC_MODULE) is not None


# How files of formats that are not supported begin: the byte where the signature is, the signature, and the kind.
_SIGNATURES = (
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"gimp xcf", "a GIMP image"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"DDS ", "a DirectDraw surface"),
    (0, b"qoif", "QOI"),
    (0, b"\0\0\x01\0", "an icon"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (8, b"CR\x02\0", "a camera's raw file"),
    (0, b"IIRO", "a camera's raw file"),
    (0, b"IIU\0", "a camera's raw file"),
    (4, b"ftypcrx", "a camera's raw file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (8, b"AVI ", "a video"),
    (4, b"ftyp", "a video"),
    (8, b"WAVE", "sound"),
    (0, b"ID3", "sound"),
    (0, b"OggS", "sound or a video"),
)
# The same for text, in small letters.
_MARKUP = ((b"<svg", "an SVG drawing"), (b"<!doctype", "a web page"), (b"<html", "a web page"), (b"<?xml", "XML"))
# The brands in the headers of HEIC files, of AVIF files, and of both.
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis")
_SHARED_BRANDS = (b"mif1", b"msf1")
SIGNATURE_BYTES = 16  # how many bytes at the beginning of a file tell its kind


def unsupported_kind(path: str | os.PathLike[str], beginning: bytes) -> str | None:
    """Says what a file is that no reader has recognised, if its first bytes or its suffix tell.

    Args:
      path: the file.
      beginning: its first `SIGNATURE_BYTES` bytes, or fewer.

    Returns:
      The kind of the file, such as "a video", with what to install if that helps; None if its suffix names a supported
      format and its content is of no known kind.
    """
    suffix = Path(path).suffix.lower()
    if _brand(beginning) in _HEIC_BRANDS or (suffix in FORMATS["heic"].suffixes and not has_heic()):
        return None if has_heic() else f"HEIC needs pillow-heif: {HEIC_HINT}"
    if _brand(beginning) in (*_AVIF_BRANDS, *_SHARED_BRANDS):
        return None
    for place, signature, kind in _SIGNATURES:
        if beginning[place:].startswith(signature):
            return kind
    text = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    markup = next((kind for signature, kind in _MARKUP if text.startswith(signature)), None)
    if markup is None and format_of(path) is None:
        return f"a {suffix} file" if suffix else "a file of no known format"
    return markup


def may_be_heic(beginning: bytes) -> bool:
    """Returns whether a file may be a HEIC file; brands that AVIF files can have as well do not tell.

    Args:
      beginning: its first bytes, at least 12.
    """
    return _brand(beginning) in (*_HEIC_BRANDS, *_SHARED_BRANDS)


def _brand(beginning: bytes) -> bytes:
    """Returns the brand of a file in the container that HEIC, AVIF and videos have in common, or nothing."""
    return beginning[8:12] if beginning[4:8] == b"ftyp" else b""
