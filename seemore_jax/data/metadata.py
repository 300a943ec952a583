"""What an image file says beside its pixels, and how each format stores it: colour profile, EXIF, resolution.

The orientation is not kept: who reads an image turns it upright. Nor is what describes the file itself (its layout,
thumbnail and size); XMP and IPTC are left out, since they repeat such fields in ways that would have to be rewritten.
"""

import contextlib
import dataclasses
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

# Tags of the main directory that describe the picture rather than the file. XPTitle to XPSubject are Windows'.
_DESCRIPTIVE = (
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.HostComputer),
    *(Base.Copyright, Base.Rating, Base.RatingPercent),
    *(Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject),
)
_DIRECTORIES = (IFD.Exif, IFD.GPSInfo)
# Of the Exif directory: an offset that is wrong in another file, and the sides, which change.
_NOT_COPIED = (IFD.Interop, Base.ExifImageWidth, Base.ExifImageHeight)
_INCH, _CENTIMETRE = 2, 3  # TIFF's units of resolution
_CM_PER_INCH = 2.54
_PROFILE_KIND = slice(16, 20)  # the colour model, within the header of an ICC profile
_PNG_HEADER = 33  # bytes up to the end of the header chunk
_CLASSIC_TIFF = 42  # its version; 43 is BigTIFF
_TIFF_ENTRY = 12  # bytes of a directory's entry
_TIFF_LONG = 4  # the type of an offset
_EXIF_PREFIX = b"Exif\0\0"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What is carried from one image file to another.

    Attributes:
      icc_profile: the ICC profile of the colours, as in the file.
      exif: tags of the main directory, with the Exif and GPS directories as dicts; without orientation and sides.
      dpi: horizontal and vertical resolution in pixels per inch.
    """

    icc_profile: bytes | None = None
    exif: dict[int, Any] = dataclasses.field(default_factory=dict)
    dpi: tuple[float, float] | None = None

    @classmethod
    def of(cls, image: Image.Image) -> "Metadata":
        """What Pillow found in a file. Damaged fields are left out: the picture is worth more than they are."""
        return cls(image.info.get("icc_profile"), _exif(image), _dpi(image))


def _exif(image: Image.Image) -> dict[int, Any]:
    tags: dict[int, Any] = {}
    with contextlib.suppress(Exception):  # nearly anything is raised on damaged data
        found = image.getexif()
        tags = {tag: found[tag] for tag in _DESCRIPTIVE if tag in found}
        for directory in _DIRECTORIES:
            content = {tag: value for tag, value in found.get_ifd(directory).items() if tag not in _NOT_COPIED}
            if content:
                tags[directory] = content
        _exif_bytes(tags)  # what cannot be written again is found here, not after the computation
        return tags
    return {}


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    with contextlib.suppress(Exception):
        found = image.info.get("dpi") or _exif_dpi(image)
        if found and all(0 < float(value) < 1e6 for value in found):
            return float(found[0]), float(found[1])
    return None


def _exif_dpi(image: Image.Image) -> tuple[float, float] | None:
    """The resolution from EXIF: WebP has no other place for it."""
    exif = image.getexif()
    if Base.XResolution not in exif or Base.YResolution not in exif:
        return None
    factor = _CM_PER_INCH if exif.get(Base.ResolutionUnit, _INCH) == _CENTIMETRE else 1.0
    return float(exif[Base.XResolution]) * factor, float(exif[Base.YResolution]) * factor


def profile_for(metadata: Metadata, channels: int) -> bytes | None:
    """The profile, if it is one for images of this many channels: a grey one fits no RGB image, nor CMYK's any."""
    profile = metadata.icc_profile
    wanted = b"GRAY" if channels <= 2 else b"RGB "
    return profile if profile and profile[_PROFILE_KIND] == wanted else None


def exif_for(metadata: Metadata, width: int, height: int) -> bytes | None:
    """EXIF of an image of that size in pixels, with its prefix, or None if there is nothing to say."""
    return _exif_bytes(_with_sides(metadata.exif, width, height)) if metadata.exif else None


def pillow_options(metadata: Metadata, suffix: str, channels: int, width: int, height: int) -> dict[str, Any]:
    """Arguments of `Image.save` that store as much of it as the format of `suffix` can hold."""
    if suffix == ".webp":
        channels = max(channels, 3)  # it has no grey
        if metadata.dpi:
            metadata = dataclasses.replace(metadata, exif=metadata.exif | _resolution_tags(*metadata.dpi))
    options: dict[str, Any] = {"dpi": metadata.dpi} if metadata.dpi else {}
    if profile := profile_for(metadata, channels):
        options["icc_profile"] = profile
    if exif := exif_for(metadata, width, height):
        options["exif"] = exif
    return options


def _resolution_tags(horizontal: float, vertical: float) -> dict[int, Any]:
    return {Base.XResolution: horizontal, Base.YResolution: vertical, Base.ResolutionUnit: _INCH}


def add_to_png(png: bytes, metadata: Metadata, channels: int, width: int, height: int) -> bytes:
    """A PNG file's bytes with the metadata in chunks of its own, for encoders that know only pixels."""
    chunks = b""
    if profile := profile_for(metadata, channels):
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    if metadata.dpi:
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *(round(v * 100 / _CM_PER_INCH) for v in metadata.dpi), 1))
    if exif := exif_for(metadata, width, height):
        chunks += _chunk(b"eXIf", exif.removeprefix(_EXIF_PREFIX))
    return png[:_PNG_HEADER] + chunks + png[_PNG_HEADER:]


def tifffile_options(metadata: Metadata, channels: int) -> dict[str, Any]:
    """Arguments of `tifffile.imwrite` for what it can write; `add_to_tiff` adds EXIF."""
    options: dict[str, Any] = {"metadata": None, "software": False}
    if metadata.dpi:
        options |= {"resolution": metadata.dpi, "resolutionunit": _INCH}
    if profile := profile_for(metadata, channels):
        options["iccprofile"] = profile
    texts = [(int(t), "s", 0, v, True) for t, v in metadata.exif.items() if isinstance(v, str) and v.isascii()]
    return options | {"extratags": texts}


def add_to_tiff(path: str | os.PathLike[str], metadata: Metadata, width: int, height: int) -> None:
    """Adds the Exif and GPS directories to a TIFF of one page; not to a BigTIFF, whose layout is another.

    They are appended, and after them a copy of the main directory that points to them.
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
        for tag, content in directories.items():
            position = _even_end(file)
            file.write(_directory_bytes(content, order, position))
            entries.append(struct.pack(order + "HHII", tag, _TIFF_LONG, 1, position))
        entries.sort(key=lambda entry: struct.unpack(order + "H", entry[:2]))
        main = _even_end(file)
        file.write(struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4))
        file.seek(4)
        file.write(struct.pack(order + "I", main))


def _directory_bytes(content: dict[int, Any], order: str, position: int) -> bytes:
    """A TIFF directory that will lie at `position` of its file."""
    directory = ImageFileDirectory_v2(b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0")
    for tag, value in content.items():
        directory[tag] = value
    return directory.tobytes(position)


def _even_end(file: BinaryIO) -> int:
    """Moves to the end of the file, made even, since directories begin at even offsets."""
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


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
