"""Writes the images for the comparison as small files, so that a browser can show any part of a large result.

Each of the two layers, `before` (bicubic) and `after` (SeemoRe), is a pyramid: level 0 has all pixels of the result,
and each further level has half the width and height of the one below, until one tile holds the whole image. The file
LAYER/LEVEL-COLUMN-ROW.SUFFIX has one tile. `comparison.js` reads them.
"""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt, UInt8
from PIL import Image

from seemore_jax.data.images import Picture, has_alpha, to_rgb8
from seemore_jax.data.metadata import profile_for
from seemore_jax.inference.folder import flatten

# The width and height of a tile; even, so that the levels of neighbouring tiles fit.
TILE = 1024
# Tiles of results with more pixels are JPEG files, which are smaller and written ten times as fast as PNG files.
_LOSSLESS_PIXELS = 2**22
_PNG: dict[str, Any] = {"compress_level": 1}
_JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}

# Function that returns the rows of an image from the first to the second argument.
_Rows = Callable[[int, int], UInt8[np.ndarray, "h w 3"]]


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The tiles of a result and of its bicubic counterpart.

    Attributes:
      folder: the folder of the layers.
      width, height: the size of the result in pixels.
      suffix: the suffix of the files.
    """

    folder: Path
    width: int
    height: int
    suffix: str


def write_tiles(
    folder: Path, before: Picture, after: Picture, progress: Callable[[float], None] = lambda fraction: None
) -> Tiles:
    """Writes the tiles of both layers: 8-bit RGB, transparent pixels on white.

    Args:
      folder: the folder for the layers.
      before: the image that was upscaled. It is resized bicubically to the size of `after`.
      after: the result.
      progress: function that is called with the fraction that is done, from 0 to 1.

    Returns:
      Where the tiles are, and their format.
    """
    small, large = _opaque(before.pixels), _opaque(after.pixels)
    height, width = large.shape[:2]
    suffix, options = (".png", _PNG) if width * height <= _LOSSLESS_PIXELS else (".jpg", _JPEG)
    image = Image.fromarray(small)

    def bicubic(top: int, bottom: int) -> np.ndarray:
        box = (0, top * image.height / height, image.width, bottom * image.height / height)
        return np.asarray(image.resize((width, bottom - top), Image.Resampling.BICUBIC, box=box))

    layers: dict[str, _Rows] = {"before": bicubic, "after": functools.partial(_rows, large)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, (layer, rows) in enumerate(layers.items()):
            profile = profile_for((before, after)[index].metadata, channels=3)
            writer = _Writer(pool, folder / layer, suffix, options | ({"icc_profile": profile} if profile else {}))
            part = functools.partial(_report_part, progress, index, len(layers))
            writer.write(width, height, rows, part)
    return Tiles(folder, width, height, suffix)


def _report_part(progress: Callable[[float], None], index: int, count: int, fraction: float) -> None:
    progress((index + fraction) / count)


def _opaque(image: UInt[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    return to_rgb8(flatten(image) if has_alpha(image) else image)


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Writes the tiles of one layer in several threads."""

    pool: ThreadPoolExecutor
    folder: Path
    suffix: str
    options: dict[str, Any]

    def write(self, width: int, height: int, rows: _Rows, progress: Callable[[float], None]) -> None:
        """Writes all levels. Only those above level 0, and one row of tiles, are in memory."""
        self.folder.mkdir()
        for level in itertools.count():
            halves = []
            for row, top in enumerate(range(0, height, TILE)):
                band = rows(top, min(top + TILE, height))
                self._write_row(level, row, band)
                halves.append(np.asarray(Image.fromarray(band).reduce(2)))
                if level == 0:
                    progress(min(top + TILE, height) / height)
            if max(width, height) <= TILE:
                return
            smaller = np.concatenate(halves)
            height, width = smaller.shape[:2]
            rows = functools.partial(_rows, smaller)

    def _write_row(self, level: int, row: int, band: UInt8[np.ndarray, "h w 3"]) -> None:
        def save(column: int) -> None:
            tile = Image.fromarray(np.ascontiguousarray(band[:, column * TILE : (column + 1) * TILE]))
            tile.save(self.folder / f"{level}-{column}-{row}{self.suffix}", **self.options)

        list(self.pool.map(save, range(math.ceil(band.shape[1] / TILE))))


def _rows(image: UInt8[np.ndarray, "h w 3"], top: int, bottom: int) -> UInt8[np.ndarray, "rows w 3"]:
    return image[top:bottom]
