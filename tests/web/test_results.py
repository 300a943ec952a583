"""If these fail, the page offers other images than `upscale` writes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import seemore_jax as sj
from seemore_jax.data.image_writing import write_image
from seemore_jax.data.images import read_image, read_picture
from seemore_jax.network import SeemoRe
from seemore_jax.web.results import upscale_upload

RANDOM = np.random.default_rng(0)


def test_the_download_keeps_orientation_profile_and_name(model: SeemoRe, folder: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(RANDOM.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(
        tmp_path / "a photo.jpg", exif=exif, icc_profile=profile
    )
    result = upscale_upload(model, tmp_path / "a photo.jpg", folder, 320)
    assert result.target.name == "a photo_x2.png"
    assert (result.before, result.after) == ((16, 20), (32, 40))
    written = read_picture(result.target)
    assert written.metadata.icc_profile == profile
    np.testing.assert_array_equal(written.pixels, sj.upscale(model, read_image(tmp_path / "a photo.jpg")))
    np.testing.assert_array_equal(read_image(folder / "after" / "0-0-0.png"), written.pixels)
    assert min(read_image(result.experts).shape[:2]) > 100


def test_the_download_keeps_16_bits_and_alpha(model: SeemoRe, folder: Path, tmp_path: Path) -> None:
    image = RANDOM.integers(0, 2**16, (16, 18, 4), dtype=np.uint16)
    write_image(tmp_path / "a.tiff", image)
    result = upscale_upload(model, tmp_path / "a.tiff", folder, 320)
    np.testing.assert_array_equal(read_image(result.target), sj.upscale(model, image))


def test_progress_goes_from_strip_to_strip_up_to_the_end(
    model: SeemoRe, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seemore_jax.inference.runner._BYTES_ON_CPU", 10**6)  # strips of a few rows
    write_image(tmp_path / "a.png", RANDOM.integers(0, 256, (120, 100, 3), dtype=np.uint8))
    told: list[float] = []
    upscale_upload(model, tmp_path / "a.png", folder, 10**6, told.append)
    assert told == sorted(told)
    assert len({share for share in told if 0 < share < 0.9}) > 3
    assert told[-1] == pytest.approx(1)


def test_who_stops_the_work_leaves_no_half_result(model: SeemoRe, folder: Path, tmp_path: Path) -> None:
    def stop(fraction: float) -> None:
        raise InterruptedError

    write_image(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(InterruptedError):
        upscale_upload(model, tmp_path / "a.png", folder, 10**6, stop)
    assert {path.name for path in folder.iterdir()} <= {"a_x2.png"}
