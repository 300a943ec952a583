"""If these fail, image files are misread, lose bits or transparency, or a damaged one ends in a traceback."""

import concurrent.futures
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seemore_jax.data import ImageError, decoder_messages, images, read_image, write_image
from seemore_jax.data.images import read_header, read_picture, to_rgb8

RNG = np.random.default_rng(0)
KINDS: dict[str, np.ndarray] = {
    "grey": RNG.integers(0, 256, (7, 5), dtype=np.uint8),
    "RGB": RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8),
    "RGBA": RNG.integers(0, 256, (7, 5, 4), dtype=np.uint8),
    "grey 16": RNG.integers(0, 65536, (7, 5), dtype=np.uint16),
    "RGB 16": RNG.integers(0, 65536, (7, 5, 3), dtype=np.uint16),
    "RGBA 16": RNG.integers(0, 65536, (7, 5, 4), dtype=np.uint16),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".tif"])
def test_lossless_formats_keep_every_bit(tmp_path: Path, kind: str, suffix: str) -> None:
    write_image(tmp_path / f"x{suffix}", KINDS[kind])
    read = read_image(tmp_path / f"x{suffix}")
    assert read.dtype == KINDS[kind].dtype
    np.testing.assert_array_equal(read, KINDS[kind])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("kind", ["RGB", "RGB 16"])
def test_views_are_written_too(tmp_path: Path, kind: str, suffix: str) -> None:
    view = KINDS[kind].swapaxes(0, 1)[::-1]
    write_image(tmp_path / f"x{suffix}", view)
    np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}"), view)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".jpg", "grey 16"),
        (".webp", "RGB 16"),
        (".bmp", "grey 16"),
        (".jpg", "RGBA"),
        (".bmp", "RGBA"),
        (".gif", "RGB 16"),
        (".avif", "grey 16"),
        (".ppm", "RGB"),
        (".heic", "RGB"),
        (".psd", "RGB"),
    ],
)
def test_a_format_that_would_lose_something_is_refused_and_nothing_written(
    tmp_path: Path, suffix: str, kind: str
) -> None:
    with pytest.raises(ImageError, match="use"):
        write_image(tmp_path / f"x{suffix}", KINDS[kind])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".bmp", ".JPG"])
def test_lossy_formats_come_back_close(tmp_path: Path, suffix: str) -> None:
    smooth = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None], (1, 64, 3))
    write_image(tmp_path / f"x{suffix}", smooth)
    assert np.abs(read_image(tmp_path / f"x{suffix}").astype(int) - smooth).max() < 12


def test_other_colour_models_become_rgb(tmp_path: Path) -> None:
    rgb = Image.fromarray(KINDS["RGB"])
    rgb.convert("CMYK").save(tmp_path / "cmyk.tiff")
    rgb.quantize(4).save(tmp_path / "palette.png")
    rgb.quantize(4).save(tmp_path / "transparent.png", transparency=0)
    Image.fromarray(KINDS["grey"]).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(KINDS["RGBA"]).convert("LA").save(tmp_path / "grey-alpha.png")
    assert read_image(tmp_path / "cmyk.tiff").shape == (7, 5, 3)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(rgb.quantize(4).convert("RGB")))
    assert set(np.unique(read_image(tmp_path / "transparent.png")[..., 3])) == {0, 255}
    assert set(np.unique(read_image(tmp_path / "bits.png"))) <= {0, 255}
    np.testing.assert_array_equal(read_image(tmp_path / "grey-alpha.png")[..., 3], KINDS["RGBA"][..., 3])
    grey_alpha = np.ascontiguousarray(KINDS["RGBA 16"][..., :2])
    (tmp_path / "grey-alpha-16.png").write_bytes(imagecodecs.png_encode(grey_alpha))
    np.testing.assert_array_equal(read_image(tmp_path / "grey-alpha-16.png"), grey_alpha[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_whatever_the_depth(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(KINDS["RGB"]).save(tmp_path / "8.png", exif=exif)
    upright = read_image(tmp_path / "8.png")
    assert upright.shape == ((7, 5, 3) if orientation < 5 else (5, 7, 3))
    tag = [(0x0112, "H", 1, orientation, True)]
    sixteen = KINDS["RGB"].astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "16.tiff", sixteen, photometric="rgb", extratags=tag)
    np.testing.assert_array_equal(read_image(tmp_path / "16.tiff"), upright.astype(np.uint16) * 257)
    grey = Image.fromarray(KINDS["grey 16"])
    grey.save(tmp_path / "16.png", exif=exif)
    quarter_turns = {1: 0, 3: 2, 6: -1, 8: 1}
    if orientation in quarter_turns:
        expected = np.rot90(KINDS["grey 16"], quarter_turns[orientation])
        np.testing.assert_array_equal(read_image(tmp_path / "16.png"), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "miniswhite"},
        {"photometric": "separated", "extrasamples": ()},
        {"photometric": "rgb", "extrasamples": ["assocalpha"]},
        {"photometric": "rgb", "planarconfig": "separate"},
    ],
    ids=str,
)
def test_sixteen_bit_tiffs_that_would_be_misread_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    image = KINDS["grey 16"] if options["photometric"] == "miniswhite" else KINDS["RGBA 16"]
    if "planarconfig" in options:
        image = np.ascontiguousarray(image[..., :3].transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "x.tiff", image, **options)
    with pytest.raises(ImageError, match="unsupported kind"):
        read_image(tmp_path / "x.tiff")


def test_a_side_that_the_format_cannot_have_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "x.webp", np.zeros((1, 16384, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.float32), np.zeros((4, 4), np.int32)])
def test_more_than_16_bits_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "x.tiff", array)
    with pytest.raises(ImageError, match="16 bits"):
        read_image(tmp_path / "x.tiff")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"II*\0", None])
def test_what_is_no_image_gives_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError) as raised:
        read_image(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("RGB", ".png"), ("RGB 16", ".png"), ("RGB 16", ".tiff"), ("RGB", ".jpg")]
)
@given(data=st.data())
def test_damage_never_gives_anything_but_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, suffix: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged-{kind}{suffix}"
    write_image(path, KINDS[kind])
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3), label="changed bytes"):
        content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)), label="length")])
    try:
        read_image(path)
    except ImageError as error:
        assert "\n" not in str(error)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the one of a full disk."""
    write_image(tmp_path / "x.tiff", KINDS["RGB"])

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", no_space)
    with pytest.raises(ImageError, match="No space left"):
        write_image(tmp_path / "x.tiff", KINDS["grey"])
    assert [path.name for path in tmp_path.iterdir()] == ["x.tiff"]
    np.testing.assert_array_equal(read_image(tmp_path / "x.tiff"), KINDS["RGB"])


def test_rgb8_of_every_kind() -> None:
    for image in KINDS.values():
        rgb = to_rgb8(image)
        assert rgb.shape == (7, 5, 3)
        peak = np.iinfo(image.dtype).max
        expected = np.broadcast_to(image.reshape(7, 5, -1)[..., :3], (7, 5, 3)) / peak
        assert np.abs(rgb / 255 - expected).max() <= 0.5 / 255 + 1e-9


def test_enormous_claims_are_refused_before_decoding_and_can_be_allowed(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        for suffix in (".png", ".tiff"):
            path = tmp_path / f"{np.dtype(dtype).name}{suffix}"
            write_image(path, np.zeros((9, 11, 3), dtype))
            assert read_picture(path, max_pixels=99).pixels.shape == (9, 11, 3)
            with pytest.raises(ImageError, match="--max_pixels=99"):
                read_picture(path, max_pixels=98)
    png = bytearray((tmp_path / "uint8.png").read_bytes())
    png[16:24] = struct.pack(">II", 100_000, 100_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    (tmp_path / "claim.png").write_bytes(png)
    with pytest.raises(ImageError, match="claims 100,000×100,000"):
        read_image(tmp_path / "claim.png")


def test_of_several_images_in_one_file_none_is_lost_silently(tmp_path: Path) -> None:
    frames = [Image.fromarray(RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)) for _ in range(3)]
    for suffix in (".png", ".webp", ".gif", ".tiff"):
        frames[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match="not a single image"):
            read_picture(tmp_path / f"x{suffix}")
        assert read_image(tmp_path / f"x{suffix}").shape[:2] == (7, 5)
    tifffile.imwrite(tmp_path / "16.tiff", np.zeros((3, 7, 5), np.uint16), photometric="minisblack")
    with pytest.raises(ImageError, match="not a single image"):
        read_picture(tmp_path / "16.tiff")
    # A reduced version of the picture is not a second picture.
    with tifffile.TiffWriter(tmp_path / "preview.tiff") as file:
        file.write(np.zeros((8, 6), np.uint8))
        file.write(np.zeros((4, 3), np.uint8), subfiletype=1)
    assert read_picture(tmp_path / "preview.tiff").pixels.shape == (8, 6)


def test_grey_with_transparency_stays_grey_in_a_picture(tmp_path: Path) -> None:
    grey = Image.fromarray(KINDS["grey"])
    Image.fromarray(KINDS["RGBA"]).convert("LA").save(tmp_path / "la.png")
    grey.save(tmp_path / "key.png", transparency=int(KINDS["grey"][0, 0]))
    assert read_picture(tmp_path / "la.png").pixels.shape == (7, 5, 2)
    keyed = read_picture(tmp_path / "key.png").pixels
    np.testing.assert_array_equal(keyed[..., 0], KINDS["grey"])
    np.testing.assert_array_equal(keyed[..., 1] == 0, KINDS["grey"] == KINDS["grey"][0, 0])
    np.testing.assert_array_equal(read_image(tmp_path / "key.png")[..., :3], np.dstack([KINDS["grey"]] * 3))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg", ".webp", ".bmp"])
def test_pillow_s_limit_of_size_does_not_count_and_stays(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise --max_pixels would have no effect, or the limit of the host program would be off for some time."""
    write_image(tmp_path / f"x{suffix}", KINDS["RGB"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    limits = []
    monkeypatch.setattr(images, "check_size", lambda *_: limits.append(Image.MAX_IMAGE_PIXELS))
    for name, (make, accepts) in list(Image.OPEN.items()):

        def noting(*arguments: Any, make: Any = make) -> Any:
            limits.append(Image.MAX_IMAGE_PIXELS)
            return make(*arguments)

        monkeypatch.setitem(Image.OPEN, name, (noting, accepts))
    assert read_picture(tmp_path / f"x{suffix}").pixels.shape == (7, 5, 3)
    assert len(limits) > 1
    assert set(limits) == {10}


def odd_image(path: Path) -> None:
    """Writes an image that Pillow warns about: an animation without frames."""
    write_image(path, KINDS["RGB"])
    chunk = b"acTL" + bytes(8)
    chunk = struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk))
    content = path.read_bytes()
    path.write_bytes(content[:33] + chunk + content[33:])  # inserted after the header


def test_the_host_s_warnings_stay_as_they_are_whichever_threads_read(tmp_path: Path) -> None:
    """The filters must not be changed permanently, and other warnings must not be hidden or raised meanwhile."""
    odd_image(tmp_path / "odd.png")
    with pytest.warns(UserWarning, match="Invalid APNG"):  # otherwise this test would test nothing
        Image.open(tmp_path / "odd.png").close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before, filters, show = warnings.filters, list(warnings.filters), warnings.showwarning
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            reads = [threads.submit(read_image, tmp_path / "odd.png") for _ in range(300)]
            for number in range(100):
                warnings.warn(f"of the host {number}", stacklevel=1)
                time.sleep(0.001)
            for read in reads:
                np.testing.assert_array_equal(read.result(), KINDS["RGB"])
        assert warnings.filters is before
        assert warnings.filters == filters
        assert warnings.showwarning is show
    assert [str(each.message) for each in caught] == [f"of the host {number}" for number in range(100)]


def test_a_host_that_sets_warnings_aside_meanwhile_gets_its_own_back(tmp_path: Path) -> None:
    """The host enters `catch_warnings` while a file is read and leaves it later, so the contexts are not nested."""
    odd_image(tmp_path / "odd.png")
    before, filters = warnings.filters, list(warnings.filters)
    with decoder_messages.decoder_warnings_off:
        aside = warnings.catch_warnings()
        aside.__enter__()
        warnings.simplefilter("error")
        assert read_header(tmp_path / "odd.png") is not None
        inner = warnings.filters
    assert not any(each == decoder_messages.decoder_warnings_off._FILTER for each in inner)
    aside.__exit__(None, None, None)
    assert warnings.filters is before
    assert warnings.filters == filters


def damaged_tiff(path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, compression="tiff_adobe_deflate")
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


_IMPORT = """
from seemore_jax.data import decoder_messages, images
assert decoder_messages._set_libtiff_handler(None) is not None
"""


def test_a_damaged_tiff_prints_nothing_and_libtiff_keeps_its_handler(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """libtiff's messages would appear between those of this program. Other users of libtiff may need them."""
    damaged_tiff(tmp_path / "x.tiff")
    with pytest.raises(OSError, match="decoder error"), Image.open(tmp_path / "x.tiff") as image:
        image.load()
    assert "ZIPDecode" in capfd.readouterr().err  # otherwise this test would test nothing
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for read in [threads.submit(read_image, tmp_path / "x.tiff") for _ in range(50)]:
            assert isinstance(read.exception(), ImageError)
    assert capfd.readouterr().err == ""
    handler = decoder_messages._set_libtiff_handler(None)
    decoder_messages._set_libtiff_handler(handler)
    assert handler is not None
    subprocess.run([sys.executable, "-c", _IMPORT], check=True)


def test_grey_with_transparency_becomes_rgb() -> None:
    """A PNG of this kind in an archive used to end `prepare` with a traceback."""
    grey = RNG.integers(0, 256, (7, 5, 2), dtype=np.uint8)
    np.testing.assert_array_equal(to_rgb8(grey), np.repeat(grey[..., :1], 3, axis=-1))
