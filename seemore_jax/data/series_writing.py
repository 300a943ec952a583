"""Writes files with several images: animations, and TIFF files with several pages.

Only a few images are in memory at the same time. Pillow writes animations in WebP and AVIF, tifffile writes pages.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from seemore_jax.data.formats import FORMATS, ImageError, written_format
from seemore_jax.data.gif_writing import write_gif
from seemore_jax.data.image_writing import tiff_layout
from seemore_jax.data.images import Picture
from seemore_jax.data.metadata import add_to_tiff, pillow_options, png_chunks, tifffile_options
from seemore_jax.data.png_writing import write_apng
from seemore_jax.data.series import Series
from seemore_jax.system.files import atomic_write

# Larger TIFF files are written as BigTIFF, because the offsets of TIFF have 32 bits.
_LARGEST_TIFF = 2**32 - 2**25
# The byte with the flags in a WebP file with an extended header, and the flag of transparency.
_WEBP_FLAGS, _WEBP_ALPHA = 20, 0x10


def check_series_target(path: str | os.PathLike[str], series: Series) -> None:
    """Checks that the format that the suffix names can store the images of a file.

    Args:
      path: the file that is to be written.
      series: the file with the images.

    Raises:
      ImageError: the format cannot be written, or stores no animations or no pages.
    """
    format = written_format(path)
    if format.several != series.kind:
        what = f"an animation of {len(series.indices)} frames" if series.kind == "frames" else "several pages"
        able = [each.suffixes[0] for each in FORMATS.values() if each.written and each.several == series.kind]
        raise ImageError(f"{series.path}: {what}, which {Path(path).suffix.lower()} cannot hold; use {', '.join(able)}")


def write_series(
    path: str | os.PathLike[str],
    pictures: Iterator[Picture],
    series: Series,
    *,
    value_count: int,
    quality: int | None = None,
) -> None:
    """Writes images into one file, in the format that the suffix names. The file appears only when it is complete.

    Args:
      path: the file, with the suffix of a format that can hold what `series` is.
      pictures: the images; frames are uint8, (H, W, 3) RGB or (H, W, 4) RGB with straight alpha, all of one shape.
      series: how many images there are, how long frames are shown and how often; the metadata of an animation.
      value_count: about how many values there are in all pictures together, over all pixels and channels.
      quality: from 1 to 100, for WebP and AVIF; None for the default. Other formats ignore it.

    Raises:
      ImageError: the format cannot be written or the file cannot be written.
    """
    path = Path(path)
    check_series_target(path, series)
    try:
        with atomic_write(path) as temporary:
            if series.kind == "pages":
                _write_pages(temporary, pictures, value_count * series.first.itemsize)
            else:
                _write_frames(temporary, (picture.pixels for picture in pictures), series, quality)
    except (OSError, ValueError) as error:  # ValueError: the format has no images of this size
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: cannot be written: {reason}") from error


def _write_pages(path: Path, pictures: Iterator[Picture], size: int) -> None:
    first = None
    with tifffile.TiffWriter(path, bigtiff=size > _LARGEST_TIFF) as file:
        for picture in pictures:
            first = first or picture
            image = picture.pixels
            channels = image.shape[2] if image.ndim == 3 else 1
            options = tiff_layout(image) | tifffile_options(picture.metadata, channels)
            file.write(image, contiguous=False, **options)
    if first is not None:
        add_to_tiff(path, first.metadata, first.pixels.shape[1], first.pixels.shape[0])


def _write_frames(path: Path, frames: Iterator[np.ndarray], series: Series, quality: int | None) -> None:
    format = written_format(path)
    if format is FORMATS["gif"]:
        with path.open("wb") as file:
            write_gif(file, frames, series.durations, series.plays)
        return
    first = next(frames)
    height, width, channels = first.shape
    if format is FORMATS["png"]:
        chunks = png_chunks(series.metadata, channels, width, height)
        with path.open("wb") as file:
            write_apng(file, _chained(first, frames), series.durations, series.plays, chunks)
        return
    options = pillow_options(series.metadata, format, channels, width, height)
    durations = [round(duration) for duration in series.durations]
    _Frames(first, frames, len(durations)).save(
        path,
        format.name.upper(),
        save_all=True,
        duration=durations,
        loop=series.plays,
        quality=quality or format.quality,
        **options,
    )
    if format is FORMATS["webp"] and channels == 4:
        _mark_transparent(path)


def _mark_transparent(path: Path) -> None:
    """Sets the flag in the header of a WebP animation that says that there is transparency.

    libwebp leaves it out if only the area around all frames' opaque rectangles is transparent; decoders then fill it.
    """
    with path.open("r+b") as file:
        if file.read(16).endswith(b"VP8X"):
            file.seek(_WEBP_FLAGS)
            flags = file.read(1)[0]
            file.seek(_WEBP_FLAGS)
            file.write(bytes([flags | _WEBP_ALPHA]))


def _chained(first: np.ndarray, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from frames


class _Frames(Image.Image):
    """An image with several frames, as Pillow's writers take it. Each frame is made when the writer asks for it."""

    def __init__(self, first: np.ndarray, following: Iterator[np.ndarray], count: int):
        super().__init__()
        self.n_frames, self.is_animated = count, True
        self._following, self._index = following, 0
        self._show(first)

    def _show(self, frame: np.ndarray) -> None:
        image = Image.fromarray(np.ascontiguousarray(frame))
        self.im, self._mode, self._size = image.im, image.mode, image.size

    def tell(self) -> int:
        """Returns the index of the present frame."""
        return self._index

    def seek(self, frame: int) -> None:
        """Goes to the next frame. Frames that are over cannot be shown again: then nothing happens."""
        if frame >= self.n_frames:
            raise EOFError
        while self._index < frame:
            self._show(next(self._following))
            self._index += 1
