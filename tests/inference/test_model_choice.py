"""Tests of the choice of bundled weights. If it is wrong, JPEG files get grids, or clean images lose sharpness."""

import os
from pathlib import Path

import pytest
from PIL import Image

from seemore_jax.inference import model_choice
from seemore_jax.inference.model_choice import HIGHEST_ROBUST_QUALITY, choose_model


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder that stands for the bundled weights: all scales, and weights for JPEG at ×4."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("T-x2", "T-x3", "T-x4", "T-x4-jpeg"):
        (folder / f"{name}.safetensors").touch()
    monkeypatch.setattr(model_choice, "BUNDLED", folder)
    return folder


def _jpeg(path: Path, quality: int) -> Path:
    Image.new("RGB", (16, 16), "teal").save(path, "JPEG", quality=quality)
    return path


def test_a_jpeg_file_of_low_quality_gets_the_robust_weights(tmp_path: Path, bundled: Path) -> None:
    choice = choose_model(_jpeg(tmp_path / "photo.jpg", 50), 4)
    assert choice == ("T-x4-jpeg", "for a JPEG file of quality 50")


def test_the_limit_itself_gets_the_robust_weights_and_one_more_the_clean_ones(tmp_path: Path, bundled: Path) -> None:
    assert choose_model(_jpeg(tmp_path / "a.jpg", HIGHEST_ROBUST_QUALITY), 4).model == "T-x4-jpeg"
    above = choose_model(_jpeg(tmp_path / "b.jpg", HIGHEST_ROBUST_QUALITY + 1), 4)
    assert above == ("T-x4", f"for a JPEG file of high quality ({HIGHEST_ROBUST_QUALITY + 1})")


def test_where_the_scale_has_no_robust_weights_the_reason_says_so(tmp_path: Path, bundled: Path) -> None:
    choice = choose_model(_jpeg(tmp_path / "photo.jpg", 50), 3)
    assert choice == ("T-x3", "for a JPEG file of quality 50; at ×3, there are no weights for JPEG")


def test_the_content_decides_and_not_the_suffix(tmp_path: Path, bundled: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", "PNG")
    assert choose_model(tmp_path / "a.jpg", 4) == ("T-x4", "for a file without JPEG compression")
    assert choose_model(_jpeg(tmp_path / "b.png", 50), 4).model == "T-x4-jpeg"


def test_what_cannot_be_read_gets_the_clean_weights(tmp_path: Path, bundled: Path) -> None:
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xdb\x00")
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    for name in ("damaged.jpg", "pipe.jpg", "missing.jpg"):
        assert choose_model(tmp_path / name, 4).model == "T-x4"
