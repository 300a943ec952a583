"""If these fail, frames of animations or pages of documents are lost, mixed up, or shown at the wrong time."""

import dataclasses
import io
import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from seemore_jax.data.formats import FORMATS, ImageError
from seemore_jax.data.images import Picture, read_header, read_picture
from seemore_jax.data.series import Series, images_of, read_series
from seemore_jax.data.series_writing import check_series_target, write_series
from tests.support.odd_images.encoders import png

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)
# A square moves over a still background.
FRAMES = [RGB.copy() for _ in range(4)]
for _number, _frame in enumerate(FRAMES):
    _frame[3 + _number : 8 + _number, 5:10] = (255, 0, 0)
ALPHA = [
    np.dstack([frame, np.where(np.arange(24)[None] < 12 + n, 255, 0).repeat(20, 0).astype(np.uint8)])
    for n, frame in enumerate(FRAMES)
]
DURATIONS = [100, 50, 200, 70]
ANIMATED = [name for name, each in FORMATS.items() if each.several == "frames"]


def save(path: Path, frames: list[np.ndarray], **options: Any) -> Path:
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], **{"duration": DURATIONS, **options})
    return path


def frames_in(path: Path) -> list[np.ndarray]:
    """The frames as Pillow finds them."""
    with Image.open(path) as image:
        found = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            found.append(np.asarray(image.convert("RGBA")))
        return found


def rewrite(path: Path, target: Path) -> Path:
    series = read_series(path)
    write_series(target, images_of(series), series, value_count=series.values)
    return target


@pytest.mark.parametrize("frames", [FRAMES, ALPHA], ids=["opaque", "transparent"])
@pytest.mark.parametrize("name", ["gif", "webp", "png"])
def test_an_animation_is_read_whole(tmp_path: Path, name: str, frames: list[np.ndarray]) -> None:
    options = {"lossless": True} if name == "webp" else {"disposal": 2} if name == "gif" else {}
    path = save(tmp_path / f"x.{name}", frames, loop=3, **options)
    header, series = read_header(path), read_series(path)
    assert header is not None
    assert (header.frames, header.pages) == (4, 1)
    assert series.kind == "frames"
    assert series.size == (24, 20)
    assert list(series.durations) == DURATIONS
    assert series.plays == (4 if name == "gif" else 3)  # GIF counts repetitions
    assert series.first.shape == (1, 1, frames[0].shape[2])
    for found, known in zip(images_of(series), frames_in(path), strict=True):
        np.testing.assert_array_equal(found.pixels, known[..., : frames[0].shape[2]])
    with pytest.raises(ImageError, match="an animation of 4 frames"):
        read_picture(path)


@pytest.mark.parametrize("frames", [FRAMES, ALPHA], ids=["opaque", "transparent"])
@pytest.mark.parametrize("name", ANIMATED)
def test_an_animation_is_written_whole_in_each_format(tmp_path: Path, name: str, frames: list[np.ndarray]) -> None:
    source = save(tmp_path / "in.png", frames, loop=3)
    target = rewrite(source, tmp_path / f"out.{name}")
    found, written = frames_in(target), read_series(target)
    assert len(found) == 4
    assert list(written.durations) == DURATIONS
    assert written.plays == (0 if name == "avif" else 3)  # AVIF does not store it
    assert written.first.shape[2] == frames[0].shape[2]
    for image, frame in zip(found, frames, strict=True):
        assert np.array_equal(image[..., 3], frame[..., 3] if frame.shape[2] == 4 else np.full((20, 24), 255))
        visible = image[..., 3] == 255
        difference = np.abs(image[..., :3].astype(int) - frame[..., :3])[visible].mean()
        assert difference <= {"png": 0, "gif": 8}.get(name, 50)  # noise is hard to compress
    if name == "png" and frames is FRAMES:
        assert target.stat().st_size < 2 * len(png(frames[0]))  # of later frames, only the square is stored


@pytest.mark.parametrize("plays", [0, 1, 2, 5])
@pytest.mark.parametrize("name", ["gif", "webp", "png"])
def test_an_animation_is_played_as_often_as_before(tmp_path: Path, name: str, plays: int) -> None:
    series = Series(Path("x"), "frames", (0, 1), RGB[:1, :1], (24, 20), 24, 1, (30.0, 40.0), plays)
    write_series(tmp_path / f"x.{name}", map(Picture, FRAMES[:2]), series, value_count=1)
    assert read_series(tmp_path / f"x.{name}").plays == plays
    rewrite(tmp_path / f"x.{name}", tmp_path / f"y.{name}")
    with Image.open(tmp_path / f"x.{name}") as first, Image.open(tmp_path / f"y.{name}") as second:
        assert first.info.get("loop") == second.info.get("loop")


def test_a_picture_before_the_animation_does_not_belong_to_it(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", FRAMES, default_image=True, duration=DURATIONS[1:])
    series = read_series(path)
    assert series.indices == (1, 2, 3)
    np.testing.assert_array_equal(next(images_of(series)).pixels, FRAMES[1])


def test_pages_keep_their_kinds_and_resolution(tmp_path: Path) -> None:
    pages: list[np.ndarray] = [RGB, RGB[:10, :, 0], RGB[:7].astype(np.uint16) * 257, np.dstack([RGB, RGB[..., 0]])]
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for page in pages:
            extra = ["unassalpha"] if page.shape[2:] == (4,) else None
            kind = "rgb" if page.ndim == 3 else "minisblack"
            resolution: Any = {"resolution": (300, 300), "resolutionunit": 2}
            file.write(page, photometric=kind, extrasamples=extra, contiguous=False, **resolution)
            file.write(page[:2, :3], photometric=kind, extrasamples=extra, contiguous=False, subfiletype=1)
    series = read_series(tmp_path / "x.tif")
    assert (series.kind, len(series.indices), series.longest) == ("pages", 4, 24)
    rewrite(tmp_path / "x.tif", tmp_path / "y.tiff")
    written = read_series(tmp_path / "y.tiff")
    for picture, page in zip(images_of(written), pages, strict=True):
        assert picture.pixels.dtype == page.dtype
        np.testing.assert_array_equal(picture.pixels, page)
        assert picture.metadata.dpi == (300, 300)


def test_metadata_of_an_animation_and_of_pages_stay(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    series = read_series(save(tmp_path / "x.png", FRAMES, exif=exif))
    pages = dataclasses.replace(series, kind="pages")
    for name, kind in (("y.png", series), ("y.webp", series), ("y.avif", series), ("y.tif", pages)):
        write_series(tmp_path / name, images_of(series), kind, value_count=series.values)
        found = read_series(tmp_path / name)
        assert len(found.indices) == 4
        assert found.metadata.exif[0x010E] == "a description"
        assert found.metadata.exif[0x8769][0x9003] == "2026:01:01 00:00:00", name


def test_what_a_format_cannot_hold_is_refused_with_what_can(tmp_path: Path) -> None:
    animation = read_series(save(tmp_path / "x.gif", FRAMES))
    pages = read_series(save(tmp_path / "x.tif", FRAMES))
    for name in ("y.jpg", "y.bmp", "y.tiff"):
        with pytest.raises(ImageError, match=r"an animation of 4 frames, which \.\w+ cannot hold; use \.png, \.webp"):
            check_series_target(tmp_path / name, animation)
    for name in ("y.png", "y.gif"):
        with pytest.raises(ImageError, match=r"several pages, which .* cannot hold; use \.tiff"):
            check_series_target(tmp_path / name, pages)
    check_series_target(tmp_path / "y.webp", animation)
    check_series_target(tmp_path / "y.tif", pages)


@pytest.mark.parametrize("name", ["gif", "webp", "png", "tiff"])
def test_a_damaged_image_is_found_before_the_first_one_is_used(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / f"x.{name}", FRAMES)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.8)])
    with pytest.raises(ImageError) as raised:
        read_series(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", [*ANIMATED, "tiff"])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, name: str) -> None:
    series = read_series(save(tmp_path / ("x.tif" if name == "tiff" else "x.png"), FRAMES))

    def failing() -> Iterator[Picture]:
        yield from itertools.islice(images_of(series), 2)
        raise OSError(5, "Input/output error")

    before = sorted(tmp_path.iterdir())
    with pytest.raises(ImageError, match="Input/output error"):
        write_series(tmp_path / f"y.{name}", failing(), series, value_count=1)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["gif", "webp", "png"])
def test_a_long_animation_is_not_kept_in_memory(tmp_path: Path, name: str) -> None:
    """All frames together take 75 MB."""
    count, side = 100, 500
    series = Series(Path("x"), "frames", tuple(range(count)), RGB[:1, :1], (side, side), side, 1, (40.0,) * count, 0)

    def frames() -> Iterator[Picture]:
        for number in range(count):
            frame = np.zeros((side, side, 3), np.uint8)
            frame[number : number + 20, 10:400] = (200, number, 30)
            yield Picture(frame)

    tracemalloc.start()
    write_series(tmp_path / f"x.{name}", frames(), series, value_count=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6
    assert len(read_series(tmp_path / f"x.{name}").durations) == count


def test_an_animation_of_one_frame_is_a_picture(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "WEBP", save_all=True, lossless=True)
    (tmp_path / "x.webp").write_bytes(stream.getvalue())
    np.testing.assert_array_equal(read_picture(tmp_path / "x.webp").pixels, RGB)
