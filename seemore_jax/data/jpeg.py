"""JPEG compression of RGB images: by libjpeg on the host, and the same by matrix products on a device.

The device's version follows the baseline codec (ITU-T T.81) in the way that libjpeg implements it: the conversion to
YCbCr of JFIF, chroma averaged over pixels, the standard quantization tables scaled by the quality, and chroma
interpolated ("fancy upsampling") when it is decoded. It computes in float32 where libjpeg computes in fixed point, so
single values differ by a few steps of 255.
"""

import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image, JpegImagePlugin

from seemore_jax.data.decoder_messages import decoder_warnings_off
from seemore_jax.system.errors import InputError

# Names of the chroma subsamplings; their positions are Pillow's numbers.
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
# How many columns and rows share one chroma value.
_FACTORS = ((1, 1), (2, 1), (2, 2))
_BLOCK = 8

# T.81, tables K.1 and K.2: luminance and chrominance, row by row.
_LUMINANCE = """
16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99
"""
_TABLES = np.array([_LUMINANCE.split(), _CHROMINANCE.split()], np.int32).reshape(2, _BLOCK, _BLOCK)

# JFIF's conversions in 1/65536, as libjpeg rounds them: Y, Cb and Cr of R, G and B (Cb and Cr are centred at 128; their
# halves are rounded down), and R, G and B of Cb and Cr, to which Y is added.
_TO_YCBCR = np.array([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]])
_YCBCR_OFFSETS = np.array([32768, (128 << 16) + 32767, (128 << 16) + 32767])
_TO_RGB = np.array([[0, 91881], [-22554, -46802], [116130, 0]])


def compress(
    image: UInt8[np.ndarray, "h w 3"], quality: int, subsampling: int = SUBSAMPLINGS.index("4:2:0")
) -> UInt8[np.ndarray, "h w 3"]:
    """Encodes an image as JPEG by libjpeg, and decodes it again.

    Args:
      image: RGB.
      quality: libjpeg's quality, 1 to 100.
      subsampling: index into `SUBSAMPLINGS`.

    Returns:
      The decoded image.

    Raises:
      InputError: quality or subsampling are out of range.
    """
    if not 1 <= quality <= 100 or subsampling not in range(len(SUBSAMPLINGS)):
        raise InputError(f"jpeg: quality is 1 to 100 and subsampling 0 to 2, not {quality} and {subsampling}")
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(quality), subsampling=int(subsampling))
    with Image.open(file) as decoded:
        return np.asarray(decoded.convert("RGB"))


def estimated_quality(tables: Mapping[int, Sequence[int]]) -> int:
    """Estimates the quality with which a JPEG file was written, from its quantization tables.

    Args:
      tables: the file's tables, 64 numbers in any order each; table 0 is that of luminance.

    Returns:
      The quality, 1 to 100, for which libjpeg's luminance table is nearest on average.
    """
    qualities = np.arange(1, 101)
    sums = _scaled_tables(qualities, np)[:, 0].sum(axis=(1, 2))
    return int(qualities[np.argmin(np.abs(sums - sum(tables[0])))])


def quality_of_file(path: Path) -> int | None:
    """Estimates the quality with which a JPEG file was written, without decoding its pixels.

    Args:
      path: the file. The format is recognised by the content, not by the suffix.

    Returns:
      The quality, 1 to 100, or None if the file is no JPEG file or cannot be read.
    """
    if not path.is_file():  # opening a pipe may never end
        return None
    try:
        with decoder_warnings_off, JpegImagePlugin.JpegImageFile(path) as image:
            return estimated_quality(image.quantization)  # type: ignore[attr-defined]
    except Exception:  # decoders raise nearly any exception for damaged data
        return None


def compress_on_device(
    images: UInt8[Array, "n h w 3"], quality: Int[Array, " n"], subsampling: Int[Array, " n"]
) -> UInt8[Array, "n h w 3"]:
    """Encodes and decodes images like `compress`, each with its own quality and subsampling; to be traced.

    Args:
      images: RGB.
      quality: 1 to 100; an image whose quality is 0 stays as it is.
      subsampling: indices into `SUBSAMPLINGS`.

    Returns:
      The decoded images.
    """
    return jax.vmap(_compress_one)(images, quality, subsampling)


def _compress_one(image: Array, quality: Array, subsampling: Array) -> Array:
    """Compresses one image (H, W, 3), as `compress_on_device`."""
    tables = _scaled_tables(jnp.clip(quality, 1, 100).astype(jnp.int32), jnp).astype(jnp.float32)
    ycbcr = _fixed_point(image, _TO_YCBCR, _YCBCR_OFFSETS).astype(jnp.float32)
    luma = _through_blocks(ycbcr[..., 0], tables[0])
    branches = [functools.partial(_through_subsampling, image.shape[:2], *factors) for factors in _FACTORS]
    chroma = [jax.lax.switch(subsampling, branches, ycbcr[..., i], tables[1]) for i in (1, 2)]
    from_chroma = _fixed_point(jnp.stack(chroma, axis=-1) - 128, _TO_RGB, np.full(3, 32768))
    decoded = jnp.clip(luma[..., None] + from_chroma, 0, 255).astype(jnp.uint8)
    return jnp.where(quality > 0, decoded, image)


def _fixed_point(channels: Array, matrix: np.ndarray, offsets: np.ndarray) -> Array:
    """Applies a matrix of 1/65536 to the channels, in integers."""
    channels = channels.astype(jnp.int32)
    rows = [
        sum(int(factor) * channels[..., i] for i, factor in enumerate(row)) + int(offset)
        for row, offset in zip(matrix, offsets, strict=True)
    ]
    return jnp.stack(rows, axis=-1) >> 16


def _scaled_tables(quality: Any, xp: Any) -> Any:
    """Scales the standard tables by the quality, 1 to 100, in integers as libjpeg does.

    `xp` is `numpy` or `jax.numpy`. The tables (2, 8, 8) come behind the axes of `quality`.
    """
    percent = xp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return xp.clip((_TABLES * percent[..., None, None, None] + 50) // 100, 1, 255)


def _through_subsampling(shape: tuple[int, ...], columns: int, rows: int, channel: Array, table: Array) -> Array:
    """Encodes and decodes a chroma channel of which `columns` × `rows` pixels share a value."""
    height, width = shape
    # As libjpeg: columns are repeated up to whole blocks before they are averaged, rows afterwards.
    small = _averaged(_padded(channel, (rows, _BLOCK * columns)), rows, columns)
    small = _through_blocks(small, table)[: -(-height // rows), : -(-width // columns)]
    if rows == 2:
        small = _interpolated(small, axis=0, rounds=False)  # rounded once, for both directions
    if columns == 2:
        small = _interpolated(small, axis=1, rounds=True)
    return small[:height, :width]


def _averaged(channel: Array, rows: int, columns: int) -> Array:
    """Averages blocks of pixels. Halves are rounded down and up in turn from column to column, as libjpeg does."""
    if rows * columns == 1:
        return channel
    height, width = channel.shape
    sums = channel.reshape(height // rows, rows, width // columns, columns).sum(axis=(1, 3))
    in_turn = jnp.arange(width // columns) % 2
    bias = in_turn if rows == 1 else 1 + in_turn
    return jnp.floor((sums + bias) / (rows * columns))


def _interpolated(channel: Array, axis: int, *, rounds: bool) -> Array:
    """Doubles the length of an axis: each new value is 3/4 of the nearer and 1/4 of the farther neighbour."""
    channel = jnp.moveaxis(channel, axis, -1)
    before = jnp.concatenate([channel[..., :1], channel[..., :-1]], axis=-1)
    after = jnp.concatenate([channel[..., 1:], channel[..., -1:]], axis=-1)
    pair = jnp.stack([3 * channel + before, 3 * channel + after], axis=-1) / 4
    doubled = pair.reshape(*channel.shape[:-1], -1)
    return jnp.moveaxis(_to_bytes(doubled) if rounds else doubled, -1, axis)


def _through_blocks(channel: Array, table: Array) -> Array:
    """Transforms blocks of 8×8 pixels, quantizes the coefficients, and transforms them back."""
    height, width = channel.shape
    padded = _padded(channel, (_BLOCK, _BLOCK)) - 128
    rows, columns = (side // _BLOCK for side in padded.shape)
    blocks = padded.reshape(rows, _BLOCK, columns, _BLOCK)
    dct = _dct_matrix() * np.float32(math.sqrt(8))
    # As libjpeg, the first of two passes keeps two binary digits, and coefficients are multiples of 1/8.
    pass_1 = _rounded(4 * jnp.einsum("ricj,vj->ricv", blocks, dct, precision="highest"))
    eighths = _rounded(jnp.einsum("ui,ricv->rucv", dct, pass_1, precision="highest") / 4)
    # So halves of a quantization step are frequent; they are rounded away from zero.
    table = table[None, :, None, :]
    quantized = jnp.sign(eighths) * jnp.floor((jnp.abs(eighths) + 4 * table) / (8 * table)) * table
    pass_1 = _rounded(4 * jnp.einsum("ui,rucv->ricv", dct, quantized, precision="highest"))
    decoded = _rounded(jnp.einsum("ricv,vj->ricj", pass_1, dct, precision="highest") / 32)
    return jnp.clip(decoded.reshape(padded.shape) + 128, 0, 255)[:height, :width]


def _dct_matrix() -> Float[np.ndarray, "8 8"]:
    """Returns the orthonormal matrix of the 8-point discrete cosine transform."""
    frequencies, samples = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)[None]
    matrix = np.cos((2 * samples + 1) * frequencies * math.pi / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix.astype(np.float32)


def _padded(channel: Array, multiples: tuple[int, int]) -> Array:
    """Repeats the last row and column up to a multiple of these numbers of rows and columns."""
    missing = [(0, -side % multiple) for side, multiple in zip(channel.shape, multiples, strict=True)]
    return jnp.pad(channel, missing, mode="edge")


def _rounded(values: Array) -> Array:
    """Rounds to whole numbers, halves upwards."""
    return jnp.floor(values + 0.5)


def _to_bytes(values: Array) -> Array:
    """Rounds to whole numbers from 0 to 255."""
    return jnp.clip(_rounded(values), 0, 255)
