"""If these fail, another model upscales a file than the visitor chose."""

from pathlib import Path

import pytest
from PIL import Image

import seemore_jax as sj
from seemore_jax.network import SeemoRe
from seemore_jax.web.choices import Choices, load_choices


def test_the_scales_have_names_and_their_bundled_model() -> None:
    choices = load_choices([])
    assert choices.scales() == {"×2": 2, "×3": 3, "×4": 4}
    assert choices.first == "×4"
    chosen = choices.choose("×3", Path("photo.jpg"))
    assert (chosen.name, chosen.model.config.scale) == ("T-x3", 3)


def test_a_compressed_file_gets_the_weights_for_jpeg_files(tmp_path: Path) -> None:
    choices = load_choices([])
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.jpg", quality=50)
    chosen = choices.choose("×4", tmp_path / "photo.jpg")
    assert (chosen.name, chosen.reason) == ("T-x4-jpeg", "for a JPEG file of quality 50")
    assert chosen.model is choices.bundled["T-x4-jpeg"]


def test_a_bundled_model_that_is_given_is_selected_first() -> None:
    choices = load_choices(["T-x2"])
    assert choices.first == "×2"
    assert len(choices.scales()) == 3


def test_other_models_are_offered_without_their_folder(model: SeemoRe, tmp_path: Path) -> None:
    sj.save(model, tmp_path / "mine.safetensors")
    choices = load_choices([str(tmp_path / "mine.safetensors"), "T-x4"])
    assert choices.first == "×2 with mine.safetensors"
    assert choices.scales() == {"×2": 2, "×3": 3, "×4": 4, "×2 with mine.safetensors": 2}
    chosen = choices.choose(choices.first, Path("photo.jpg"))
    assert chosen.name == "mine.safetensors"
    assert chosen.model.config == model.config


def test_an_unknown_choice_is_refused(choices: Choices) -> None:
    with pytest.raises(KeyError):
        choices.choose("×7", Path("photo.jpg"))
