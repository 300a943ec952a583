"""Writes PNG files of 8 and 16 bits, and animations in PNG (APNG), by all cores.

Most of the time of an ordinary encoder goes into the choice of a filter for each row and into the search for the
longest match, which upscaled images, being smooth, hardly reward: `benchmarks.files` compares times and sizes. So each
row has the filter "Average", and the rows are compressed with zlib's level 4, in blocks that do not depend on each
other. A block ends at the end of a byte, so that the blocks one after the other are one stream.

Source: *Portable Network Graphics (PNG) Specification (Third Edition)*, W3C 2025; RFC 1950 for the checksum of the
stream.
"""

import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt, UInt8

from seemore_jax.data.metadata import png_chunk
from seemore_jax.system.cores import usable_cores

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Level 6 takes four times as long, for 5 % less. Level 1 makes files half as large again where zlib is zlib-ng.
LEVEL = 4
_COLOR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's colour type, by the number of channels
_AVERAGE = 3  # PNG's number of the filter
_BLOCK_BYTES = 2**20
_STREAM_HEADER = b"\x78\x01"
_LAST_BLOCK = b"\x03\0"  # an empty one
_ADLER = 65521

# A function that is called with the fraction of the file that is written, from 0 to 1.
Progress = Callable[[float], None]


class Block(NamedTuple):
    """Compressed rows of an image.

    Attributes:
      data: the compressed bytes.
      checksum: the checksum (Adler-32) of the bytes before compression.
      length: the number of bytes before compression.
    """

    data: bytes
    checksum: int
    length: int


def write_png(
    file: BinaryIO, image: UInt[np.ndarray, "h w *c"], chunks: bytes = b"", progress: Progress = lambda share: None
) -> None:
    """Writes an image as PNG.

    Args:
      file: the file, opened for writing.
      image: uint8 or uint16: (H, W) grey, (H, W, 2) grey with straight alpha, (H, W, 3) RGB, (H, W, 4) RGB with
        straight alpha.
      chunks: encoded chunks to write before the pixels, such as metadata.
      progress: called with the fraction that is written.
    """
    file.write(SIGNATURE + _header(image) + chunks)
    done = 0
    for data, rows in _stream(image):
        file.write(png_chunk(b"IDAT", data))
        done += rows
        progress(done / image.shape[0])
    file.write(png_chunk(b"IEND", b""))


def write_apng(
    file: BinaryIO,
    frames: Iterator[UInt8[np.ndarray, "h w c"]],
    durations: Sequence[float],
    plays: int,
    chunks: bytes = b"",
) -> None:
    """Writes an animation as PNG. Of each frame, the rectangle that differs from the frame before is written.

    Args:
      file: the file, opened for writing.
      frames: as many images as there are durations, all of one shape.
      durations: how long each frame is shown, in milliseconds.
      plays: how often the animation is played; 0 means without end.
      chunks: encoded chunks to write before the pixels, such as metadata.
    """
    previous, number = None, 0
    for index, (frame, duration) in enumerate(zip(frames, durations, strict=True)):
        if previous is None:
            control = png_chunk(b"acTL", struct.pack(">II", len(durations), plays))
            file.write(SIGNATURE + _header(frame) + control + chunks)
        top, bottom, left, right = changed_rectangle(previous, frame)
        place = struct.pack(">IIII", right - left, bottom - top, left, top)
        # No disposal, and the pixels of the rectangle replace those of the frame before.
        end = struct.pack(">HHBB", *_fraction(duration), 0, 0)
        file.write(png_chunk(b"fcTL", struct.pack(">I", number) + place + end))
        number += 1
        for data, _ in _stream(frame[top:bottom, left:right]):
            if index:
                file.write(png_chunk(b"fdAT", struct.pack(">I", number) + data))
                number += 1
            else:
                file.write(png_chunk(b"IDAT", data))
        previous = frame
    file.write(png_chunk(b"IEND", b""))


def changed_rectangle(before: np.ndarray | None, after: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the smallest rectangle with all pixels that differ between two frames, of at least one pixel.

    Args:
      before: the frame before, (H, W, C); None if there is none: then the rectangle is the whole frame.
      after: the frame, (H, W, C).

    Returns:
      The first row, the row after the last one, and the same for the columns.
    """
    height, width = after.shape[:2]
    if before is None:
        return 0, height, 0, width
    changed = (before != after).any(axis=-1)
    if not changed.any():
        return 0, 1, 0, 1
    rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _fraction(milliseconds: float) -> tuple[int, int]:
    """Returns a time as numerator and denominator of seconds, 16 bits each."""
    if milliseconds < 2**16:
        return round(milliseconds), 1000
    return min(round(milliseconds / 1000), 2**16 - 1), 1


def _header(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    color = _COLOR_TYPE[image.shape[2] if image.ndim == 3 else 1]
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * image.itemsize, color, 0, 0, 0))


def _stream(image: UInt[np.ndarray, "h w *c"]) -> Iterator[tuple[bytes, int]]:
    """Yields the compressed stream of an image in pieces, and how many more rows each piece completes."""
    height = image.shape[0]
    rows = max(1, _BLOCK_BYTES // max(1, image[0].nbytes))
    starts = range(0, height, rows)
    checksum, begin = 1, _STREAM_HEADER
    for start, block in zip(starts, _blocks(image, starts, rows), strict=True):
        checksum = _combined(checksum, block)
        end = _LAST_BLOCK + struct.pack(">I", checksum) if start == starts[-1] else b""
        yield begin + block.data + end, min(rows, height - start)
        begin = b""


def _blocks(image: np.ndarray, starts: Sequence[int], rows: int) -> Iterator[Block]:
    """Yields the blocks in order. Several threads compress them, a few blocks ahead, so that little memory is used."""
    if len(starts) == 1:
        yield _block(image, 0, rows)
        return
    threads = usable_cores()
    waiting: deque[Future[Block]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="png") as pool:
        for start in starts:
            waiting.append(pool.submit(_block, image, start, rows))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _block(image: np.ndarray, start: int, rows: int) -> Block:
    """Filters and compresses the rows from `start` on."""
    raw = _bytes_of(image[start : start + rows])
    above = np.zeros_like(raw)
    above[1:] = raw[:-1]
    if start:
        above[0] = _bytes_of(image[start - 1 : start])[0]
    left = np.zeros_like(raw)
    pixel = raw.shape[1] // image.shape[1]
    left[:, pixel:] = raw[:, :-pixel]
    lines = np.empty((len(raw), raw.shape[1] + 1), np.uint8)
    lines[:, 0] = _AVERAGE
    # Half the sum of two bytes, rounded down, without a carry.
    np.subtract(raw, (left & above) + ((left ^ above) >> 1), out=lines[:, 1:])
    coder = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, 9)
    data = coder.compress(lines.data) + coder.flush(zlib.Z_SYNC_FLUSH)
    return Block(data, zlib.adler32(lines.data), lines.nbytes)


def _bytes_of(rows: UInt[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h b"]:
    """Returns rows as PNG orders their bytes: those of 16-bit values with the higher byte first."""
    ordered = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder(">"))
    return ordered.reshape(len(rows), -1).view(np.uint8)


def _combined(checksum: int, block: Block) -> int:
    """Returns the checksum of all bytes so far and those of a block, from the checksums of both."""
    low, high = checksum & 0xFFFF, checksum >> 16
    more_low, more_high = block.checksum & 0xFFFF, block.checksum >> 16
    high = (high + more_high + block.length * (low - 1)) % _ADLER
    return high << 16 | (low + more_low - 1) % _ADLER
