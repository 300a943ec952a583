"""Overlapping tiles of image pairs: what a training set stores, so that a crop costs one small decode."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8


def cut_tiles(
    lr: UInt8[np.ndarray, "h w 3"], hr: UInt8[np.ndarray, "sh sw 3"], scale: int, tile: int = 128, overlap: int = 64
) -> Iterator[tuple[UInt8[np.ndarray, "th tw 3"], UInt8[np.ndarray, "sth stw 3"]]]:
    """Tiles that cover a pair such that every crop of at most overlap + 1 LR pixels a side lies within one of them.

    Args:
      lr: uint8, (H, W, 3).
      hr: uint8, (scale·H, scale·W, 3).
      scale: factor between the two.
      tile: side of a tile in LR pixels; an image with a shorter side gives tiles of that side.
      overlap: pixels that neighbours have in common at least, less than `tile`. The last tiles end at the border.

    Yields:
      Views (LR, HR) of the images, row by row.
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
