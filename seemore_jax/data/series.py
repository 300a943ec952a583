"""Reads files with several images: animations, frame by frame, and TIFF files with several pages.

A file is read twice. The first time finds what is damaged and what all images have in common, before anything is
computed; the second time yields the images one by one, so that only one is in memory.
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from seemore_jax.data.formats import MAX_PIXELS, ImageError
from seemore_jax.data.image_files import (
    check_size,
    check_sums,
    count_frames,
    count_pages,
    first_frame,
    is_deep_png,
    open_image,
    orientation_of,
    page_indices,
    reading,
    upright,
)
from seemore_jax.data.images import Picture, read_page
from seemore_jax.data.metadata import Metadata


@dataclasses.dataclass(frozen=True)
class Series:
    """What is known of a file with several images.

    Attributes:
      path: the file.
      kind: whether its images are the frames of an animation, or the pages of a document.
      indices: the index of each image in the file.
      first: the first image with one pixel, which has the type and the channels; of an animation, all frames have them.
      size: width and height of the first image in pixels; of an animation, all frames have it.
      longest: the longest side of all images in pixels.
      values: the number of values of all images together, over all pixels and channels.
      durations: how long each frame is shown, in milliseconds; empty for pages.
      plays: how often the animation is played; 0 means without end.
      metadata: those of the first image.
    """

    path: Path
    kind: Literal["frames", "pages"]
    indices: tuple[int, ...]
    first: np.ndarray
    size: tuple[int, int]
    longest: int
    values: int
    durations: tuple[float, ...] = ()
    plays: int = 1
    metadata: Metadata = dataclasses.field(default_factory=Metadata)


def read_series(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Series:
    """Examines a file with several images, and checks that all of them can be read.

    Args:
      path: the file, whose header says that it has several frames or pages.
      max_pixels: the largest number of pixels of one image.

    Raises:
      ImageError: an image is damaged, too large, of another kind than those that `read_picture` reads, or the file is
        an animation with 16 bits for each channel.
    """
    path = Path(path)
    with reading(path):
        with open_image(path) as image:
            if image.format == "HEIF":
                count = count_pages(path, image)
                raise ImageError(
                    f"{path}: {count} pictures in one HEIC file, of which only one would be kept: split it"
                )
            if image.format != "TIFF":
                return _read_animation(path, image, max_pixels)
        return _read_document(path, max_pixels)


def images_of(series: Series, max_pixels: int = MAX_PIXELS) -> Iterator[Picture]:
    """Yields the images of a file, as `read_picture` would return them.

    The frames of an animation are complete: what remains of the frames before is part of them.

    Args:
      series: the file, from `read_series`.
      max_pixels: the largest number of pixels of one image.

    Raises:
      ImageError: the file has changed and can no longer be read.
    """
    if series.kind == "pages":
        for index in series.indices:
            yield read_page(series.path, index, max_pixels)
        return
    channels = series.first.shape[2]
    with reading(series.path), open_image(series.path) as image:
        orientation = orientation_of(image)
        for index in series.indices:
            yield Picture(_frame(image, index, orientation)[..., :channels], series.metadata)


def _read_animation(path: Path, image: Image.Image, max_pixels: int) -> Series:
    check_sums(path)
    if is_deep_png(path):
        raise ImageError(f"{path}: an animation with 16 bits for each channel; convert it to 8 bits first")
    check_size(path, *image.size, max_pixels)
    begin, orientation, metadata = first_frame(image), orientation_of(image), Metadata.of(image)
    indices = tuple(range(begin, begin + count_frames(image)))
    durations, opaque = [], True
    for index in indices:
        frame = _frame(image, index, orientation)
        opaque = opaque and bool((frame[..., 3] == np.iinfo(frame.dtype).max).all())
        durations.append(float(image.info.get("duration", 0)))
    first = frame[:1, :1, : 3 if opaque else 4].copy()
    size = (frame.shape[1], frame.shape[0])
    values = len(indices) * size[0] * size[1] * first.shape[2]
    return Series(path, "frames", indices, first, size, max(size), values, tuple(durations), _plays(image), metadata)


def _frame(image: Image.Image, index: int, orientation: int) -> np.ndarray:
    """Returns a frame as RGB with alpha, (H, W, 4)."""
    image.seek(index)
    image.load()
    return upright(np.asarray(image.convert("RGBA")), orientation)


def _plays(image: Image.Image) -> int:
    """Returns how often an animation is played. GIF counts repetitions, and has no entry for none."""
    loop = image.info.get("loop")
    if image.format == "GIF":
        return 1 if loop is None else loop and loop + 1
    return 0 if loop is None else int(loop)


def _read_document(path: Path, max_pixels: int) -> Series:
    indices = tuple(page_indices(path))
    first = read_page(path, indices[0], max_pixels)
    shapes = [first.pixels.shape, *(read_page(path, index, max_pixels).pixels.shape for index in indices[1:])]
    size, longest = (shapes[0][1], shapes[0][0]), max(max(shape[:2]) for shape in shapes)
    values = sum(map(math.prod, shapes))
    return Series(path, "pages", indices, first.pixels[:1, :1].copy(), size, longest, values, metadata=first.metadata)
