"""Defines an odd file and a sound sample, and makes the sound samples from which odd files are made."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from tests.support.odd_images.encoders import png, saved, tiff, webp

# Nearly all images have this size, because a program is compiled for each size.
HEIGHT, WIDTH = 20, 24


@dataclasses.dataclass(frozen=True)
class Odd:
    """Describes a file that can be put into a folder.

    Attributes:
      kind: what is odd about the file.
      name: its path within the folder.
      content: its bytes, or a function that makes the file at a path.
      readings: the images that a reader may find in the file, uint8 or uint16; if there are none, the file has to be
        refused.
      may_refuse: whether the file may be refused although there are readings.
      frames: the images of a file with several, all of which have to be upscaled.
    """

    kind: str
    name: str
    content: bytes | Callable[[Path], None]
    readings: tuple[np.ndarray, ...] = ()
    may_refuse: bool = False
    frames: tuple[np.ndarray, ...] = ()

    def put(self, folder: Path) -> Path:
        """Makes the file below a folder, and returns its path."""
        path = folder / self.name
        path.parent.mkdir(exist_ok=True)
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content)
        return path


@dataclasses.dataclass(frozen=True)
class Sample:
    """Holds the bytes of a sound file, its file name extension, and the image that it shows."""

    suffix: str
    data: bytes
    pixels: np.ndarray


def noise(rng: np.random.Generator, *channels: int, dtype: Any = np.uint8) -> np.ndarray:
    """Returns a random image (HEIGHT, WIDTH, *channels) that uses the full range of the type."""
    return rng.integers(0, np.iinfo(dtype).max + 1, (HEIGHT, WIDTH, *channels), dtype=dtype)


def sound_samples(rng: np.random.Generator) -> dict[str, Sample]:
    """Makes one sound file of each common kind, by name."""
    rgb, grey, rgba = noise(rng, 3), noise(rng), noise(rng, 4)
    rgb16, grey16, rgba16 = (noise(rng, *c, dtype=np.uint16) for c in ((3,), (), (4,)))
    jpegs = {
        "jpeg": saved(rgb, "JPEG"),
        "progressive": saved(rgb, "JPEG", progressive=True),
        "grey_jpeg": saved(grey, "JPEG"),
    }
    return {
        "png": Sample(".png", png(rgb), rgb),
        "rgba": Sample(".png", png(rgba), rgba),
        "png16": Sample(".png", png(rgb16), rgb16),
        "grey16": Sample(".png", png(grey16), grey16),
        **{name: Sample(".jpg", data, imagecodecs.jpeg8_decode(data)) for name, data in jpegs.items()},
        "webp": Sample(".webp", webp(rgba), rgba),
        "bmp": Sample(".bmp", saved(rgb, "BMP"), rgb),
        "tiff": Sample(".tif", tiff(rgb), rgb),
        "deflated_tiff": Sample(".tif", tiff(rgb, compression="deflate"), rgb),
        "tiff16": Sample(".tiff", tiff(rgba16), rgba16),
        "lzw_tiff16": Sample(".tiff", tiff(grey16, compression="lzw", predictor=True), grey16),
    }
