"""If these fail, PNG files are wrong, or the pixels of large ones are mixed up between the threads."""

import io
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seemore_jax.data import png_writing
from seemore_jax.data.png_writing import changed_rectangle, write_png

RNG = np.random.default_rng(0)


def written(image: np.ndarray, **options: Any) -> bytes:
    with tempfile.TemporaryFile() as file:
        write_png(file, image, **options)
        file.seek(0)
        return file.read()


def random_image(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 300), (300, 1)])
def test_another_decoder_finds_the_pixels(size: tuple[int, int], channels: tuple[int, ...], dtype: type) -> None:
    image = random_image((*size, *channels), dtype)
    decoded = imagecodecs.png_decode(written(image))
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("height", [1, 9, 10, 11, 95])
def test_blocks_of_several_threads_are_one_image(height: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are ten rows in a block, or five."""
    monkeypatch.setattr(png_writing, "_BLOCK_BYTES", 10 * 31 * 3)
    monkeypatch.setattr(png_writing, "usable_cores", lambda: 3)
    image, shares = random_image((height, 31, 3), dtype), list[float]()
    data = written(image, progress=shares.append)
    with Image.open(io.BytesIO(data)) as check:
        check.verify()  # checksums of the chunks
    np.testing.assert_array_equal(imagecodecs.png_decode(data), image)
    assert shares == sorted(shares)
    assert shares[-1] == 1


@given(parts=st.lists(st.binary(max_size=2000), min_size=1, max_size=5))
def test_the_checksum_of_all_blocks_is_that_of_their_bytes(parts: list[bytes]) -> None:
    checksum = 1
    for part in parts:
        checksum = png_writing._combined(checksum, png_writing.Block(b"", zlib.adler32(part), len(part)))
    assert checksum == zlib.adler32(b"".join(parts))


def test_files_are_about_as_small_as_those_of_pillow() -> None:
    """A wrong filter, or a level that does not fit the filter, would make them much larger."""
    smooth = random_image((40, 40, 3), np.uint8)
    image = np.asarray(Image.fromarray(smooth).resize((640, 640), Image.Resampling.BICUBIC))
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=6)
    assert len(written(image)) < 1.15 * len(file.getvalue())


def test_a_full_disk_ends_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_writing, "_BLOCK_BYTES", 300)
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        write_png(file, random_image((100, 30, 3), np.uint8))
    assert not any(thread.name.startswith("png") for thread in threading.enumerate())


def test_the_rectangle_that_changes() -> None:
    before = np.zeros((6, 8, 3), np.uint8)
    assert changed_rectangle(None, before) == (0, 6, 0, 8)
    assert changed_rectangle(before, before.copy()) == (0, 1, 0, 1)
    after = before.copy()
    after[2, 3, 1] = after[4, 6, 0] = 1
    assert changed_rectangle(before, after) == (2, 5, 3, 7)
