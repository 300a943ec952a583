"""If these tests fail, a bad file stops others, an output is wrong or incomplete, or a file is skipped silently."""

import io
import resource
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, JpegImagePlugin

import seemore_jax as sj
from seemore_jax.data.image_writing import write_image
from seemore_jax.data.images import read_image, read_picture
from seemore_jax.inference import folder as folder_module
from seemore_jax.inference.folder import FileCallbacks, Outcome, Settings, flatten, upscale_files
from seemore_jax.inference.jobs import find_sources, name_jobs
from seemore_jax.inference.outcomes import summary
from tests.support.release import ported, release_model, zeros

CONFIG = sj.SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1)
RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 9, 12
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
RGBA = np.dstack([RGB, RGB[..., 0]])
KIBI, MEBI = 2**10, 2**20


@pytest.fixture(scope="module")
def model() -> sj.SeemoRe:
    return zeros(CONFIG)


def run(model: sj.SeemoRe, source: Path, output: Path, extension: str = ".png", **settings: Any) -> list[Outcome]:
    jobs = name_jobs(find_sources([str(source)], output), output, "_x2", extension)
    return list(upscale_files(model, jobs, Settings(**settings)))


def by_name(outcomes: list[Outcome]) -> dict[str, Outcome]:
    return {outcome.job.source.name: outcome for outcome in outcomes}


def test_each_file_is_upscaled_as_if_alone(tmp_path: Path) -> None:
    """The folder contains images of several types and numbers of channels, which are upscaled in batches."""
    model = ported(release_model(CONFIG), CONFIG)
    images: dict[str, np.ndarray] = {f"rgb{n}": np.roll(RGB, n, axis=0) for n in range(3)}
    images |= {"grey": RGB[..., 0], "alpha": RGBA, "deep": RGB.astype(np.uint16) * 257}
    for name, image in images.items():
        write_image(tmp_path / "in" / f"{name}.png", image)
    outcomes = run(model, tmp_path / "in", tmp_path / "out")
    assert summary(outcomes) == "6 made, 0 skipped, 0 failed"
    for name, image in images.items():
        written, alone = read_picture(tmp_path / "out" / f"{name}_x2.png").pixels, sj.upscale(model, image)
        assert (written.dtype, written.shape) == (alone.dtype, alone.shape)
        assert np.abs(written.astype(int) - alone).max() <= np.iinfo(alone.dtype).max // 255


def test_what_is_there_is_not_made_again(model: sj.SeemoRe, tmp_path: Path) -> None:
    for name in "ab":
        write_image(tmp_path / "in" / f"{name}.png", RGB)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_x2.png").write_bytes(b"made before")
    assert summary(run(model, tmp_path / "in", tmp_path / "out")) == "1 made, 1 skipped, 0 failed"
    assert (tmp_path / "out" / "a_x2.png").read_bytes() == b"made before"
    assert summary(run(model, tmp_path / "in", tmp_path / "out")) == "0 made, 2 skipped, 0 failed"
    assert summary(run(model, tmp_path / "in", tmp_path / "out", overwrite=True)) == "2 made, 0 skipped, 0 failed"
    assert read_picture(tmp_path / "out" / "a_x2.png").pixels.shape == (2 * HEIGHT, 2 * WIDTH, 3)


def test_what_a_format_cannot_hold_is_refused_unless_it_is_given_up(model: sj.SeemoRe, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "alpha.png", RGBA)
    write_image(tmp_path / "in" / "deep.png", RGB.astype(np.uint16) * 257)
    write_image(tmp_path / "in" / "opaque.png", np.dstack([RGB, np.full((HEIGHT, WIDTH), 255, np.uint8)]))
    refused = by_name(run(model, tmp_path / "in", tmp_path / "a", ".jpg"))
    assert "--flatten" in str(refused["alpha.png"].error)
    assert "--8bit" in str(refused["deep.png"].error)
    assert refused["opaque.png"].status == "made"  # alpha without information is dropped
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["opaque_x2.jpg"]
    given_up = run(model, tmp_path / "in", tmp_path / "b", ".jpg", flatten=True, eight_bit=True)
    assert summary(given_up) == "3 made, 0 skipped, 0 failed"
    written = {path.stem: read_picture(path).pixels for path in (tmp_path / "b").iterdir()}
    assert {(image.dtype.name, image.shape) for image in written.values()} == {("uint8", (18, 24, 3))}


def test_flattening_lays_on_white() -> None:
    image = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], np.uint8)
    np.testing.assert_array_equal(flatten(image), [[[255, 255, 255], [10, 20, 30], [204, 204, 204]]])
    np.testing.assert_array_equal(flatten(np.array([[[100, 0], [100, 65535]]], np.uint16)), [[65535, 100]])


def test_sides_that_the_format_lacks_are_found_before_computing(
    model: sj.SeemoRe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "upscale_images", pytest.fail)
    write_image(tmp_path / "in" / "long.png", np.zeros((1, 8192, 3), np.uint8))
    outcome = run(model, tmp_path / "in", tmp_path / "out", ".webp")[0]
    assert "too large for .webp" in str(outcome.error)


def test_strips_that_were_asked_for_are_made_of_images_that_would_share_a_batch(
    model: sj.SeemoRe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscale_images, asked = folder_module.upscale_images, []

    def noting(model: sj.SeemoRe, images: list[np.ndarray], **options: Any) -> Any:
        asked.append((len(images), options["batch_size"], options["strip_rows"]))
        return upscale_images(model, images, **options)

    monkeypatch.setattr(folder_module, "upscale_images", noting)
    for name in "ab":
        write_image(tmp_path / "in" / f"{name}.png", RGB)
    assert summary(run(model, tmp_path / "in", tmp_path / "out", strip_rows=4)) == "2 made, 0 skipped, 0 failed"
    assert asked == [(1, 1, 4)] * 2


def test_a_batch_that_does_not_fit_is_taken_apart(
    model: sj.SeemoRe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscale_images = folder_module.upscale_images

    def little_memory(model: sj.SeemoRe, images: list[np.ndarray], **options: Any) -> Any:
        if len(images) > 1 or images[0].max() == 7:
            raise MemoryError
        return upscale_images(model, images, **options)

    monkeypatch.setattr(folder_module, "upscale_images", little_memory)
    for name, image in {"a": RGB, "b": np.full_like(RGB, 7), "c": RGB}.items():
        write_image(tmp_path / "in" / f"{name}.png", image)
    outcomes = by_name(run(model, tmp_path / "in", tmp_path / "out"))
    assert [outcomes[f"{name}.png"].status for name in "abc"] == ["made", "failed", "made"]
    assert "out of memory" in str(outcomes["b.png"].error)


def test_a_full_disk_costs_no_other_file(model: sj.SeemoRe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name.startswith("a"):
            raise OSError(28, "No space left on device")
        write_image(path, *arguments, **options)

    monkeypatch.setattr(folder_module, "write_image", write)
    for name in "ab":
        write_image(tmp_path / "in" / f"{name}.png", RGB)
    outcomes = by_name(run(model, tmp_path / "in", tmp_path / "out"))
    assert "No space left" in str(outcomes["a.png"].error)
    assert outcomes["b.png"].status == "made"


def test_an_animation_is_upscaled_frame_by_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frames are those of images alone. There are more of them than one batch takes."""
    model = ported(release_model(CONFIG), CONFIG)
    monkeypatch.setattr("seemore_jax.inference.upscaling._BATCH_IMAGES", 2)
    frames = [np.roll(RGB, n, axis=0) for n in range(5)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(
        encoded(frames[0], "PNG", save_all=True, append_images=[Image.fromarray(frame) for frame in frames[1:]])
    )
    shares: list[float] = []
    jobs = name_jobs(find_sources([str(tmp_path / "in")], tmp_path / "out"), tmp_path / "out", "_x2", None)
    callbacks = FileCallbacks(lambda job, share: shares.append(share))
    (outcome,) = upscale_files(model, jobs, Settings(), callbacks)
    assert (outcome.status, outcome.images, outcome.before, outcome.after) == ("made", 5, (12, 9), (24, 18))
    assert outcome.routing is not None
    assert outcome.to_json()["images"] == 5
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    with Image.open(outcome.job.target) as image:
        for index, frame in enumerate(frames):
            image.seek(index)
            difference = np.abs(np.asarray(image).astype(int) - sj.upscale(model, frame))
            assert difference.max() <= 1, index


def test_pages_of_different_kinds_are_upscaled_as_if_alone(tmp_path: Path) -> None:
    model = ported(release_model(CONFIG), CONFIG)
    pages: list[np.ndarray] = [RGB, RGB, RGB[..., 0], RGB[:5].astype(np.uint16) * 257]
    (tmp_path / "in").mkdir()
    with tifffile.TiffWriter(tmp_path / "in" / "x.tif") as file:
        for page in pages:
            file.write(page, photometric="rgb" if page.ndim == 3 else "minisblack", contiguous=False)
    (outcome,) = run(model, tmp_path / "in", tmp_path / "out", ".tif")
    assert outcome.images == 4
    with tifffile.TiffFile(outcome.job.target) as file:
        for found, page in zip(file.pages, pages, strict=True):
            alone = sj.upscale(model, page)
            assert np.abs(found.asarray().astype(int) - alone).max() <= np.iinfo(alone.dtype).max // 255
    (reduced,) = run(model, tmp_path / "in", tmp_path / "out8", ".tif", eight_bit=True)
    with tifffile.TiffFile(reduced.job.target) as file:
        assert {page.dtype for page in file.pages} == {np.dtype(np.uint8)}


def test_several_images_need_a_format_that_holds_them(model: sj.SeemoRe, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    frames = [Image.fromarray(np.roll(RGB, n, axis=0)) for n in range(3)]
    (tmp_path / "in" / "a.gif").write_bytes(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    (tmp_path / "in" / "b.tif").write_bytes(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    outcomes = by_name(run(model, tmp_path / "in", tmp_path / "out", ".jpg"))
    assert "an animation of 3 frames, which .jpg cannot hold; use .png, .webp" in str(outcomes["a.gif"].error)
    assert "several pages, which .jpg cannot hold; use .tiff" in str(outcomes["b.tif"].error)
    assert not (tmp_path / "out").exists()


def test_failures_of_the_writing_thread_are_those_of_their_files(
    model: sj.SeemoRe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch is computed while the first one is written."""
    threads = set()

    def write(path: Path, image: np.ndarray, *arguments: Any, **options: Any) -> None:
        threads.add(threading.current_thread().name)
        if path.stem.endswith("1_x2"):
            raise OSError(28, "No space left on device")
        write_image(path, image, *arguments, **options)

    monkeypatch.setattr(folder_module, "write_image", write)
    for number in range(4):
        write_image(tmp_path / "in" / f"{number}.png", RGB[: 5 + number // 2])
    outcomes = by_name(run(model, tmp_path / "in", tmp_path / "out"))
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "0.png": "made", "1.png": "failed", "2.png": "made", "3.png": "made",
    }  # fmt: skip
    assert str(outcomes["1.png"].error) == f"{tmp_path / 'in' / '1.png'}: No space left on device"
    assert len(threads) == 1
    assert "writer" in threads.pop()


def test_progress_covers_reading_computing_and_writing(
    model: sj.SeemoRe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that is computed at once has a bar as well: it goes on by time."""
    upscale_images, seen = folder_module.upscale_images, list[tuple[str, float]]()

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.7)
        return upscale_images(*arguments, **options)

    monkeypatch.setattr(folder_module, "upscale_images", slow)
    write_image(tmp_path / "in" / "x.png", RGB)
    jobs = name_jobs(find_sources([str(tmp_path / "in")], tmp_path / "out"), tmp_path / "out", "_x2", ".png")
    note = FileCallbacks(lambda job, share: seen.append((threading.current_thread().name, share)))
    assert [outcome.status for outcome in upscale_files(model, jobs, Settings(), note)] == ["made"]
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert sum(name == "progress" for name, _ in seen) >= 2
    assert seen[-1][0].startswith("writer")


def test_quality_and_subsampling_of_a_jpeg(model: sj.SeemoRe, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    smooth = Image.fromarray(RGB).resize((12, 9), Image.Resampling.BICUBIC)
    for number in range(3):
        smooth.save(tmp_path / "in" / f"{number}.jpg", subsampling=number, quality=80)
    smooth.save(tmp_path / "in" / "3.png")

    def written(**settings: Any) -> dict[str, tuple[int, int]]:
        for outcome in run(model, tmp_path / "in", tmp_path / "out", ".jpg", overwrite=True, **settings):
            assert outcome.status == "made"
        found = {}
        for path in (tmp_path / "out").iterdir():
            with Image.open(path) as image:
                assert isinstance(image, JpegImagePlugin.JpegImageFile)
                found[path.stem[0]] = JpegImagePlugin.get_sampling(image), image.quantization[0][0]
        return found

    usual = written()
    assert [usual[name][0] for name in "0123"] == [0, 1, 2, 2]
    assert len({table for _, table in usual.values()}) == 1
    coarse = written(quality=30)
    assert [coarse[name][0] for name in "0123"] == [0, 1, 2, 2]
    assert coarse["0"][1] > usual["0"][1]


def encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def sixteen_bit_tiff(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, photometric="rgb", compression="zlib")
    return file.getvalue()


def claiming(png: bytes, width: int, height: int) -> bytes:
    header = png[12:16] + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


DEEP = RGB.astype(np.uint16) * 257
PALETTE = Image.fromarray(RGB).quantize(8)
FRAMES = [Image.fromarray(np.roll(RGB, n, axis=0)) for n in range(3)]
GOOD: dict[str, Callable[[], bytes]] = {
    "rgb.png": lambda: encoded(RGB, "PNG"),
    "rgb.jpg": lambda: encoded(RGB, "JPEG"),
    "rgb.webp": lambda: encoded(RGB, "WEBP"),
    "rgb.tiff": lambda: encoded(RGB, "TIFF", compression="tiff_lzw"),
    "rgb.bmp": lambda: encoded(RGB, "BMP"),
    "deep.png": lambda: bytes(imagecodecs.png_encode(DEEP)),
    "deep.tiff": lambda: sixteen_bit_tiff(DEEP),
    "deep-grey.png": lambda: bytes(imagecodecs.png_encode(DEEP[..., 0].copy())),
    "palette.png": lambda: encoded(PALETTE, "PNG", transparency=0),
    "cmyk.jpg": lambda: encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "grey-alpha.png": lambda: encoded(RGBA[..., 2:], "PNG"),
    "alpha.webp": lambda: encoded(RGBA, "WEBP", lossless=True),
    "wrong-1.jpg": lambda: encoded(RGB, "PNG"),
    "wrong-2.tiff": lambda: encoded(RGB, "JPEG"),
    "wrong-3.png": lambda: sixteen_bit_tiff(DEEP),
    "1x1.png": lambda: encoded(RGB[:1, :1], "PNG"),
    "5000x1.png": lambda: encoded(np.zeros((1, 5000), np.uint8), "PNG"),
    "1x5000.bmp": lambda: encoded(np.zeros((5000, 1), np.uint8), "BMP"),
    "animated.webp": lambda: encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "animated.png": lambda: encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
}
BAD: dict[str, Callable[[], bytes]] = {
    "empty.png": lambda: b"",
    "empty.webp": lambda: b"",
    "text.jpg": lambda: b"this is no picture\n" * 20,
    "signature.png": lambda: b"\x89PNG\r\n\x1a\n",
    "pages.tiff": lambda: encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]),
    "float.tiff": lambda: encoded(RGB[..., 0].astype(np.float32), "TIFF"),
    "script.bmp": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "claim-8.png": lambda: claiming(encoded(RGB, "PNG"), 100_000, 100_000),
    "claim-16.png": lambda: claiming(bytes(imagecodecs.png_encode(DEEP)), 100_000, 100_000),
    "claim.bmp": lambda: b"".join(
        [encoded(RGB, "BMP")[:18], struct.pack("<ii", 100_000, 100_000), encoded(RGB, "BMP")[26:]]
    ),
}


def write_odd_inputs(place: Path) -> int:
    """Makes 200 files: good ones, bad ones, and good ones truncated at random points or with changed bytes."""
    (place / "sub").mkdir(parents=True)
    for name, encode in (GOOD | BAD).items():
        (place / name).write_bytes(encode())
    (place / "folder.png").mkdir()
    damaged = [name for name in GOOD if not name[0].isdigit()]
    for number in range(200 - len(GOOD) - len(BAD)):
        name = damaged[number % len(damaged)]
        content = bytearray(GOOD[name]())
        if number % 5:
            content = content[: RNG.integers(0, len(content))]
        else:  # after the header, so that the declared size does not change
            content[RNG.integers(min(64, len(content) - 1), len(content))] ^= 0x55
        (place / "sub" / f"{number:03}-{name}").write_bytes(content)
    return 200


@pytest.mark.thorough
def test_200_damaged_or_odd_inputs(model: sj.SeemoRe, tmp_path: Path) -> None:
    """Each file is upscaled, or refused with a message of one line; the memory stays bounded."""
    count = write_odd_inputs(tmp_path / "in")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = run(model, tmp_path / "in", tmp_path / "out")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * KIBI < 1000 * MEBI
    assert len(outcomes) == len({outcome.job.source for outcome in outcomes}) == count
    named = by_name(outcomes)
    assert {name for name in GOOD if named[name].status != "made"} == set()
    assert {name for name in BAD if named[name].status != "failed"} == set()
    assert all("--max_pixels" in str(named[name].error) for name in BAD if name.startswith("claim"))
    made = [outcome for outcome in outcomes if outcome.status == "made"]
    for outcome in made:
        assert outcome.before is not None
        shape = read_image(outcome.job.target).shape
        assert (shape[1], shape[0]) == outcome.after == (2 * outcome.before[0], 2 * outcome.before[1])
    for outcome in outcomes:
        assert (outcome.error is None) == (outcome.status == "made")
        assert outcome.error is None or (str(outcome.job.source) in outcome.error and "\n" not in outcome.error)
    files = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {outcome.job.target for outcome in made}
    deep = [named[name].job.target for name in ("deep.png", "deep.tiff", "deep-grey.png")]
    assert all(read_picture(path).pixels.dtype == np.uint16 for path in deep)
