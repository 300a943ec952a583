"""The metadata of image files: colour profile, EXIF and resolution, and how each format stores them.

Some metadata are not kept. The orientation is applied when an image is read. Fields that describe the file itself, such
as its layout, its thumbnail and its size, do not fit another file. XMP and IPTC repeat such fields, so they are left
out too.
"""

import contextlib
import dataclasses
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, JpegImagePlugin
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from seemore_jax.data.formats import FORMATS, Format

# Tags of the main directory that describe the picture and not the file. Windows writes XPTitle to XPSubject.
_DESCRIPTIVE = (
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.HostComputer),
    *(Base.Copyright, Base.Rating, Base.RatingPercent),
    *(Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject),
)
_DIRECTORIES = (IFD.Exif, IFD.GPSInfo)
# Tags of the Exif directory that do not fit another file: an offset, and the sides of the picture.
_NOT_COPIED = (IFD.Interop, Base.ExifImageWidth, Base.ExifImageHeight)
_INCH, _CENTIMETRE = 2, 3  # TIFF's units of resolution
_CM_PER_INCH = 2.54
_PROFILE_KIND = slice(16, 20)  # the bytes in the header of an ICC profile that name the colour model
_CLASSIC_TIFF = 42  # the version number of TIFF; BigTIFF has 43
_TIFF_ENTRY = 12  # the number of bytes of an entry in a directory
_TIFF_LONG = 4  # the type of entries that are offsets
_EXIF_PREFIX = b"Exif\0\0"
_COLOR_LAYERS = 3  # the number of channels of a JPEG file with chroma


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The metadata that are copied from one image file to another.

    Attributes:
      icc_profile: the ICC colour profile, as in the file, or None.
      exif: the values of EXIF tags in the main directory, without orientation and sides. The Exif and GPS directories
        are dicts in it.
      dpi: the horizontal and vertical resolution in pixels per inch, or None.
      subsampling: the chroma subsampling of a JPEG file, an index into `jpeg.SUBSAMPLINGS`; None for other files, and
        for JPEG files with another subsampling or without chroma.
    """

    icc_profile: bytes | None = None
    exif: dict[int, Any] = dataclasses.field(default_factory=dict)
    dpi: tuple[float, float] | None = None
    subsampling: int | None = None

    @classmethod
    def of(cls, image: Image.Image) -> "Metadata":
        """Returns the metadata of an image. Damaged fields are left out, so that the image can still be used.

        Args:
          image: an image that Pillow has opened.
        """
        return cls(image.info.get("icc_profile"), _exif(image), _dpi(image), _subsampling(image))


def _exif(image: Image.Image) -> dict[int, Any]:
    tags: dict[int, Any] = {}
    with contextlib.suppress(Exception):  # Pillow raises nearly any exception for damaged data
        found = image.getexif()
        tags = {tag: found[tag] for tag in _DESCRIPTIVE if tag in found}
        for directory in _DIRECTORIES:
            content = {tag: value for tag, value in found.get_ifd(directory).items() if tag not in _NOT_COPIED}
            if content:
                tags[directory] = content
        _exif_bytes(tags)  # raises here, and not after the computation, if the tags cannot be written
        return tags
    return {}


def _subsampling(image: Image.Image) -> int | None:
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.layers != _COLOR_LAYERS:
        return None
    found = JpegImagePlugin.get_sampling(image)
    return found if found >= 0 else None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    with contextlib.suppress(Exception):
        found = image.info.get("dpi") or _exif_dpi(image)
        if found and all(0 < float(value) < 1e6 for value in found):
            return float(found[0]), float(found[1])
    return None


def _exif_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Reads the resolution from EXIF, the only place where WebP stores it."""
    exif = image.getexif()
    if Base.XResolution not in exif or Base.YResolution not in exif:
        return None
    factor = _CM_PER_INCH if exif.get(Base.ResolutionUnit, _INCH) == _CENTIMETRE else 1.0
    return float(exif[Base.XResolution]) * factor, float(exif[Base.YResolution]) * factor


def profile_for(metadata: Metadata, channels: int) -> bytes | None:
    """Returns the colour profile if it fits an image.

    A grey profile does not fit RGB images. A CMYK profile fits no image, because CMYK is converted to RGB.

    Args:
      metadata: the metadata with the profile.
      channels: the number of channels of the image, 1 to 4, including alpha.

    Returns:
      The bytes of the profile, or None.
    """
    profile = metadata.icc_profile
    wanted = b"GRAY" if channels <= 2 else b"RGB "
    return profile if profile and profile[_PROFILE_KIND] == wanted else None


def exif_for(metadata: Metadata, width: int, height: int) -> bytes | None:
    """Encodes EXIF for an image.

    Args:
      metadata: the metadata with the EXIF tags.
      width: the width of the image in pixels.
      height: the height of the image in pixels.

    Returns:
      The bytes, which begin with the prefix of EXIF data, or None if there are no tags.
    """
    return _exif_bytes(_with_sides(metadata.exif, width, height)) if metadata.exif else None


def pillow_options(metadata: Metadata, format: Format, channels: int, width: int, height: int) -> dict[str, Any]:
    """Returns the arguments of `PIL.Image.Image.save` that store all metadata that a format supports.

    Args:
      metadata: the metadata.
      format: the format.
      channels: the number of channels of the image, 1 to 4, including alpha.
      width: the width of the image in pixels.
      height: the height of the image in pixels.
    """
    if format is FORMATS["webp"]:
        channels = max(channels, 3)  # WebP has no grey images
    if format in (FORMATS["webp"], FORMATS["avif"]) and metadata.dpi:
        metadata = dataclasses.replace(metadata, exif=metadata.exif | _resolution_tags(*metadata.dpi))
    options: dict[str, Any] = {"dpi": metadata.dpi} if metadata.dpi else {}
    if format is FORMATS["jpg"] and metadata.subsampling is not None and channels == _COLOR_LAYERS:
        options["subsampling"] = metadata.subsampling
    if profile := profile_for(metadata, channels):
        options["icc_profile"] = profile
    if exif := exif_for(metadata, width, height):
        options["exif"] = exif
    return options


def _resolution_tags(horizontal: float, vertical: float) -> dict[int, Any]:
    return {Base.XResolution: horizontal, Base.YResolution: vertical, Base.ResolutionUnit: _INCH}


def png_chunks(metadata: Metadata, channels: int, width: int, height: int) -> bytes:
    """Encodes metadata as chunks of a PNG file, which stand before the pixels.

    Args:
      metadata: the metadata.
      channels: the number of channels of the image, 1 to 4, including alpha.
      width: the width of the image in pixels.
      height: the height of the image in pixels.
    """
    chunks = b""
    if profile := profile_for(metadata, channels):
        chunks += png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    if metadata.dpi:
        chunks += png_chunk(b"pHYs", struct.pack(">IIB", *(round(v * 100 / _CM_PER_INCH) for v in metadata.dpi), 1))
    if exif := exif_for(metadata, width, height):
        chunks += png_chunk(b"eXIf", exif.removeprefix(_EXIF_PREFIX))
    return chunks


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Encodes a chunk of a PNG file.

    Args:
      kind: the four letters of its type.
      data: its content.
    """
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))])


def tifffile_options(metadata: Metadata, channels: int) -> dict[str, Any]:
    """Returns the arguments of `tifffile.imwrite` that store metadata. `add_to_tiff` then adds the Exif directories.

    Args:
      metadata: the metadata.
      channels: the number of channels of the image, 1 to 4, including alpha.
    """
    options: dict[str, Any] = {"metadata": None, "software": False}
    if metadata.dpi:
        options |= {"resolution": metadata.dpi, "resolutionunit": _INCH}
    if profile := profile_for(metadata, channels):
        options["iccprofile"] = profile
    texts = [(int(t), "s", 0, v, True) for t, v in metadata.exif.items() if isinstance(v, str) and v.isascii()]
    return options | {"extratags": texts}


def add_to_tiff(path: str | os.PathLike[str], metadata: Metadata, width: int, height: int) -> None:
    """Adds the Exif and GPS directories to the first page of a TIFF file.

    A BigTIFF file is not changed, because it has another layout. The directories are appended to the file. After
    them, a copy of the main directory that points to them is appended.

    Args:
      path: the TIFF file.
      metadata: the metadata with the EXIF tags.
      width: the width of the image in pixels.
      height: the height of the image in pixels.
    """
    exif = _with_sides(metadata.exif, width, height)
    directories = {int(tag): exif[tag] for tag in _DIRECTORIES if tag in exif}
    with Path(path).open("r+b") as file:
        header = file.read(8)
        order = "<" if header.startswith(b"II") else ">"
        version, main = struct.unpack(order + "2xHI", header)
        if not directories or version != _CLASSIC_TIFF:
            return
        file.seek(main)
        (count,) = struct.unpack(order + "H", file.read(2))
        entries = [file.read(_TIFF_ENTRY) for _ in range(count)]
        next_page = file.read(4)
        for tag, content in directories.items():
            position = _even_end(file)
            file.write(_directory_bytes(content, order, position))
            entries.append(struct.pack(order + "HHII", tag, _TIFF_LONG, 1, position))
        entries.sort(key=lambda entry: struct.unpack(order + "H", entry[:2]))
        main = _even_end(file)
        file.write(struct.pack(order + "H", len(entries)) + b"".join(entries) + next_page)
        file.seek(4)
        file.write(struct.pack(order + "I", main))


def _directory_bytes(content: dict[int, Any], order: str, position: int) -> bytes:
    """Encodes a TIFF directory that begins at byte `position` of its file."""
    directory = ImageFileDirectory_v2(b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0")
    for tag, value in content.items():
        directory[tag] = value
    return directory.tobytes(position)


def _even_end(file: BinaryIO) -> int:
    """Moves to the end of a file, adding a byte if its length is odd, because directories begin at even offsets."""
    end = file.seek(0, os.SEEK_END)
    return end + file.write(bytes(end % 2))


def _with_sides(exif: dict[int, Any], width: int, height: int) -> dict[int, Any]:
    sides = {int(Base.ExifImageWidth): width, int(Base.ExifImageHeight): height}
    return exif | {int(IFD.Exif): exif[IFD.Exif] | sides} if IFD.Exif in exif else exif


def _exif_bytes(tags: dict[int, Any]) -> bytes:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    return exif.tobytes()
