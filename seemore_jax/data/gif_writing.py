"""Writes GIF files, frame by frame, so that only one frame is in memory.

Pillow encodes the frames. Its own writer of animations keeps all of them.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import GifImagePlugin, Image

from seemore_jax.data.images import has_alpha
from seemore_jax.data.png_writing import changed_rectangle

_HEADER = b"GIF89a"
_COLORS = 256  # at most, for each frame
_VISIBLE = 128  # a pixel of less alpha is transparent
_KEEP, _CLEAR = 1, 2  # GIF's numbers for what becomes of a frame when the next one is shown
_TRAILER = b";"


def write_gif(
    file: BinaryIO, frames: Iterator[UInt8[np.ndarray, "h w *c"]], durations: Sequence[float], plays: int
) -> None:
    """Writes a GIF file. Each frame gets its own 256 colours, the nearest ones to its own.

    Of each frame, the rectangle that differs from the frame before is written; the whole frame if there is
    transparency, of which GIF has only all or nothing.

    Args:
      file: the file, opened for writing.
      frames: as many images as there are durations, all of one shape: (H, W) grey, (H, W, 2) grey with straight alpha,
        (H, W, 3) RGB, (H, W, 4) RGB with straight alpha.
      durations: how long each frame is shown, in milliseconds; GIF stores hundredths of a second.
      plays: how often the animation is played; 0 means without end.
    """
    previous = None
    for frame, duration in zip(frames, durations, strict=True):
        if previous is None:
            height, width = frame.shape[:2]
            file.write(_HEADER + struct.pack("<HHBBB", width, height, 0, 0, 0) + _repetition(plays))
        colors = frame if frame.ndim == 3 else frame[..., None]
        top, bottom, left, right = changed_rectangle(None if has_alpha(frame) else previous, colors)
        image, transparent = _quantized(frame[top:bottom, left:right])
        options = {"transparency": transparent} if transparent is not None else {}
        disposal = _CLEAR if has_alpha(frame) else _KEEP
        # The duration is rounded here, because Pillow rounds down.
        options |= {"duration": 10 * round(duration / 10), "disposal": disposal, "include_color_table": True}
        file.write(b"".join(GifImagePlugin.getdata(image, (left, top), **options)))
        previous = colors
    file.write(_TRAILER)


def _repetition(plays: int) -> bytes:
    """Returns the extension that says how often an animation is repeated; without it, it is played once."""
    if plays == 1:
        return b""
    return b"\x21\xff\x0bNETSCAPE2.0" + struct.pack("<BBHB", 3, 1, max(0, plays - 1), 0)


def _quantized(frame: UInt8[np.ndarray, "h w *c"]) -> tuple[Image.Image, int | None]:
    """Returns a frame with a palette, and the index of the transparent colour, if there is one."""
    if not has_alpha(frame):
        return _with_palette(frame, _COLORS), None
    colors = frame[..., 0] if frame.shape[2] == 2 else frame[..., :3]
    image = _with_palette(np.ascontiguousarray(colors), _COLORS - 1)
    indices = np.where(frame[..., -1] < _VISIBLE, _COLORS - 1, np.asarray(image)).astype(np.uint8)
    transparent = Image.fromarray(indices, "L")
    palette = (image.getpalette() or [])[: 3 * (_COLORS - 1)]
    transparent.putpalette(palette + [0] * (3 * _COLORS - len(palette)))
    return transparent, _COLORS - 1


def _with_palette(colors: UInt8[np.ndarray, "h w *c"], count: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(colors)).convert("RGB")
    return image.quantize(count, Image.Quantize.MEDIANCUT)
