"""Cuts image pairs into overlapping tiles, which training sets store so that a patch needs only one small decoding."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8


def cut_tiles(
    lr: UInt8[np.ndarray, "h w 3"], hr: UInt8[np.ndarray, "sh sw 3"], scale: int, tile: int = 128, overlap: int = 64
) -> Iterator[tuple[UInt8[np.ndarray, "th tw 3"], UInt8[np.ndarray, "sth stw 3"]]]:
    """Cuts an image pair into tiles. Each patch with sides of at most overlap + 1 LR pixels lies within one tile.

    Args:
      lr: the LR image, uint8, (H, W, 3).
      hr: the HR image, uint8, (scale·H, scale·W, 3).
      scale: the factor between the sides of HR and of LR.
      tile: the side of a tile in LR pixels. If a side of the image is shorter, the tiles have the side of the image.
      overlap: the number of LR pixels that neighbouring tiles have in common at least, less than `tile`. The last tiles
        end at the border of the image and may overlap more.

    Yields:
      LR tile and HR tile, as views of the images, row by row.
    """
    for top in _starts(lr.shape[0], tile, overlap):
        for left in _starts(lr.shape[1], tile, overlap):
            rows, columns = slice(top, top + tile), slice(left, left + tile)
            yield lr[rows, columns], hr[_scaled(rows, scale), _scaled(columns, scale)]


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    last = max(side - tile, 0)
    return [*range(0, last, tile - overlap), last]


def _scaled(pixels: slice, scale: int) -> slice:
    return slice(pixels.start * scale, pixels.stop * scale)
