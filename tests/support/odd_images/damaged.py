"""Makes files that are cut off, have flipped bits, or have overwritten bytes."""

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator

import numpy as np
import tifffile
from PIL import Image, ImageOps

from tests.support.odd_images.files import Odd, Sample

_MOST_PIXELS = 2**20  # A damaged header may state a huge size: larger images are not decoded here.
_KINDS = ("truncated", "flipped bits", "overwritten")
_OVERWRITTEN_BYTES = 16


def damaged(rng: np.random.Generator, samples: dict[str, Sample]) -> Iterator[Odd]:
    """Damages the samples in turn, each in every way, without end."""
    for number in itertools.count():
        name, sample = list(samples.items())[number // len(_KINDS) % len(samples)]
        kind = _KINDS[number % len(_KINDS)]
        data = _damage(sample.data, kind, rng)
        # A reader may not invent pixels for the part that was cut off.
        readings = () if kind == "truncated" else _direct_readings(data)
        yield Odd(kind, f"{number:03}_{name}_damaged{sample.suffix}", data, (sample.pixels, *readings), may_refuse=True)


def _damage(sound: bytes, kind: str, rng: np.random.Generator) -> bytes:
    data = bytearray(sound)
    if kind == "truncated":
        del data[rng.integers(len(data)) :]
    elif kind == "flipped bits":
        for bit in rng.integers(8 * len(data), size=rng.integers(1, 9)):
            data[bit // 8] ^= 1 << bit % 8
    else:
        start = rng.integers(len(data))
        stop = start + _OVERWRITTEN_BYTES
        data[start:stop] = rng.bytes(len(data[start:stop]))
    return bytes(data)


def _direct_readings(data: bytes) -> tuple[np.ndarray, ...]:
    """Returns what Pillow and tifffile decode, if they decode the data at all."""
    readings = []
    kept_modes = {"1": "L"} | {mode: mode for mode in ("L", "LA", "RGB", "RGBA", "I;16")}
    # Decoders raise nearly any exception on damaged data.
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.suppress(Exception),
        Image.open(io.BytesIO(data)) as image,
    ):
        if image.width * image.height <= _MOST_PIXELS:
            upright = ImageOps.exif_transpose(image)
            readings.append(np.asarray(upright.convert(kept_modes.get(upright.mode, "RGB"))))
    with contextlib.suppress(Exception), tifffile.TiffFile(io.BytesIO(data)) as file:
        if file.pages.first.size <= _MOST_PIXELS:
            readings.append(file.pages.first.asarray())
    return tuple(readings)
