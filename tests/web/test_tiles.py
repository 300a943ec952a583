"""If these fail, the comparison shows other pixels than the download and than bicubic upscaling, or has seams."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from seemore_jax.data.images import Picture, read_image, read_picture
from seemore_jax.data.metadata import Metadata
from seemore_jax.web import tiles
from seemore_jax.web.tiles import write_tiles

RANDOM = np.random.default_rng(0)


def joined(folder: Path, level: int, suffix: str) -> np.ndarray:
    """The image of a level, from its tiles."""
    names = [path.stem.split("-") for path in folder.glob(f"{level}-*{suffix}")]
    columns, rows = (1 + max(int(name[i]) for name in names) for i in (1, 2))
    assert len(names) == columns * rows
    return np.concatenate(
        [
            np.concatenate([read_image(folder / f"{level}-{x}-{y}{suffix}") for x in range(columns)], axis=1)
            for y in range(rows)
        ]
    )


def bicubic(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def test_the_tiles_of_a_level_make_up_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 16)
    small = RANDOM.integers(0, 256, (17, 25, 3), dtype=np.uint8)
    large = RANDOM.integers(0, 256, (51, 75, 3), dtype=np.uint8)
    told: list[float] = []
    view = write_tiles(tmp_path, Picture(small), Picture(large), told.append)
    assert (view.width, view.height, view.suffix) == (75, 51, ".png")
    np.testing.assert_array_equal(joined(tmp_path / "after", 0, ".png"), large)
    np.testing.assert_array_equal(joined(tmp_path / "before", 0, ".png"), bicubic(small, 75, 51))
    expected = Image.fromarray(large)
    for level in (1, 2, 3):
        expected = expected.reduce(2)
        np.testing.assert_array_equal(joined(tmp_path / "after", level, ".png"), np.asarray(expected))
    assert max(expected.size) <= 16
    assert not list((tmp_path / "after").glob("4-*"))
    assert told == sorted(told)
    assert told[-1] == 1


def test_transparent_pixels_are_white_and_16_bits_are_rounded(tmp_path: Path) -> None:
    image = RANDOM.integers(0, 2**16, (16, 18, 4), dtype=np.uint16)
    image[:, :9, 3] = 0
    write_tiles(tmp_path, Picture(image), Picture(image.repeat(2, 0).repeat(2, 1)))
    for layer in ("before", "after"):
        shown = read_image(tmp_path / layer / "0-0-0.png")
        assert (shown.dtype, shown.shape) == (np.uint8, (32, 36, 3))
        assert (shown[:, :10] == 255).all()
        assert (shown[:, 24:] < 255).any()


def test_a_large_result_has_small_files_that_look_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_LOSSLESS_PIXELS", 100)
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    view = write_tiles(tmp_path, Picture(smooth), Picture(smooth))
    assert view.suffix == ".jpg"
    difference = read_image(tmp_path / "after" / "0-0-0.jpg").astype(int) - smooth
    assert abs(difference).max() <= 4


def test_colours_are_shown_by_their_profile(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = np.zeros((4, 4, 3), np.uint8)
    write_tiles(tmp_path, Picture(image, Metadata(profile)), Picture(image))
    assert read_picture(tmp_path / "before" / "0-0-0.png").metadata.icc_profile == profile
    assert read_picture(tmp_path / "after" / "0-0-0.png").metadata.icc_profile is None
