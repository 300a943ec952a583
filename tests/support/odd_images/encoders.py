"""Encodes images as PNG, TIFF, WebP and other formats, with options that ordinary writers do not have."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image

_PNG_COLOR = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's colour type, by the number of channels
_PALETTE_COLOR = 3
# The passes of an interlaced PNG: first row, first column, step between rows, step between columns.
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_MEGABYTE = 2**20


def png(
    pixels: np.ndarray,
    *,
    interlaced: bool = False,
    before: bytes = b"",
    claimed_side: int = 0,
    data: bytes | None = None,
) -> bytes:
    """Encodes an image as PNG with 8 or 16 bits.

    Args:
      pixels: uint8 or uint16, (H, W) or (H, W, 1 to 4).
      interlaced: write the pixels in the seven passes of Adam7.
      before: chunks to write before the pixels; if they have a palette, `pixels` holds indices into it.
      claimed_side: height and width that the header states; 0 states the true ones.
      data: compressed data to write in the place of the pixels.
    """
    image = pixels.reshape(*pixels.shape[:2], -1)
    height, width, channels = image.shape
    color = _PALETTE_COLOR if b"PLTE" in before else _PNG_COLOR[channels]
    header = (claimed_side or width, claimed_side or height, 8 * image.itemsize, color, 0, 0, int(interlaced))
    passes = [image[y::dy, x::dx] for y, x, dy, dx in (_ADAM7 if interlaced else ((0, 0, 1, 1),))]
    content = zlib.compress(b"".join(_scan_lines(part) for part in passes if part.size)) if data is None else data
    end = chunk(b"IDAT", content) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + before + end


def _scan_lines(image: np.ndarray) -> bytes:
    """Returns the rows of an image as PNG stores them: big-endian, each after the number of its filter."""
    no_filter = b"\0"
    return b"".join(no_filter + row.tobytes() for row in image.astype(image.dtype.newbyteorder(">")))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Encodes a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg_segment(kind: int, data: bytes) -> bytes:
    """Encodes a segment of a JPEG file."""
    return struct.pack(">BBH", 0xFF, kind, len(data) + 2) + data


def saved(image: np.ndarray | Image.Image, format: str, **options: Any) -> bytes:
    """Encodes an image with Pillow."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, format, **options)
    return stream.getvalue()


def webp(image: np.ndarray, **options: Any) -> bytes:
    """Encodes an image as WebP without loss."""
    return saved(image, "WEBP", lossless=True, exact=True, **options)


def tiff(image: np.ndarray, **options: Any) -> bytes:
    """Encodes an image with tifffile; a second or fourth channel is alpha unless the options say otherwise."""
    stream = io.BytesIO()
    photometric = "rgb" if image.shape[2:] in ((3,), (4,)) else "minisblack"
    extra = ["unassalpha"] if image.shape[2:] in ((2,), (4,)) else None
    defaults = {
        "photometric": photometric,
        "extrasamples": extra,
        "planarconfig": "contig" if image.ndim == 3 else None,
    }
    tifffile.imwrite(stream, image, metadata=None, **{**defaults, **options})
    return stream.getvalue()


def with_tiff_tags(data: bytes, **values: int) -> bytes:
    """Returns a TIFF file in which tags of its first page have other values."""
    content = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for tag, value in values.items():
            entry = file.pages.first.tags[tag]
            long, count = 4, 1
            content[entry.offset + 2 : entry.offset + 12] = struct.pack("<HII", long, count, value)
    return bytes(content)


def with_bytes(data: bytes, place: int, value: bytes) -> bytes:
    """Returns the data with the bytes at a place replaced."""
    return data[:place] + value + data[place + len(value) :]


def deflated_zeros(megabytes: int) -> bytes:
    """Returns a small zlib stream that unpacks to that many megabytes of zeros.

    A full flush makes the code of each megabyte independent of the one before, so that it can be repeated.
    """
    coder = zlib.compressobj(9)
    head = coder.compress(bytes(_MEGABYTE)) + coder.flush(zlib.Z_FULL_FLUSH)
    block = coder.compress(bytes(_MEGABYTE)) + coder.flush(zlib.Z_FULL_FLUSH)
    last_block = b"\x03\0"
    checksum = megabytes * _MEGABYTE % 65521 << 16 | 1  # Adler-32 of zeros
    return head + block * (megabytes - 1) + last_block + struct.pack(">I", checksum)
