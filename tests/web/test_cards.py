"""If these fail, visitors read options of a command line that they do not have, or text of a file becomes a script."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from seemore_jax.data.image_writing import write_image
from seemore_jax.inference.folder import Settings, upscale_files
from seemore_jax.inference.jobs import Job
from seemore_jax.network import SeemoRe
from seemore_jax.web import cards
from seemore_jax.web.choices import Choices, Chosen
from seemore_jax.web.results import upscale_upload


@pytest.mark.parametrize("target", ["a.jpg", "a.png"])
def test_messages_have_no_options_and_no_folders(model: SeemoRe, target: str, tmp_path: Path) -> None:
    """All that the command says about a file, in the words of the page."""
    image = np.zeros((20, 20, 4), np.uint16)
    write_image(tmp_path / "a.tiff", image)
    (tmp_path / "broken.png").write_bytes(b"broken")
    files = ["a.tiff", "broken.png", "missing.png"]
    jobs = [Job(tmp_path / name, tmp_path / "out" / f"{i}{target}") for i, name in enumerate(files)]
    for job in jobs:
        (outcome,) = upscale_files(model, [job], Settings(max_pixels=399))
        assert outcome.error
        message = cards.for_visitors(outcome.error, job.source)
        assert message.startswith(f"{job.source.name}: ")
        assert "--" not in message
        assert str(tmp_path) not in message


def test_a_message_of_options_alone_still_names_the_file() -> None:
    path = Path("/server/a.png")
    assert cards.for_visitors("allow it with --max_pixels=9", path) == "a.png: cannot be used"


def test_a_card_has_the_model_and_why_and_files_that_exist(model: SeemoRe, folder: Path, tmp_path: Path) -> None:
    name = "<script>&'\".png"
    write_image(tmp_path / name, np.zeros((16, 16, 3), np.uint8))
    result = upscale_upload(model, tmp_path / name, folder, 10**6)
    result = dataclasses.replace(result, notes=("a <note>",))
    card = cards.result_card(name, Chosen(model, "T-x2", "because <it> fits"), result)
    assert "<strong>16×16 → 32×32</strong> pixels in " in card
    assert "Model: <strong>T-x2</strong>, because &lt;it&gt; fits." in card
    assert "<script>" not in card
    assert "a &lt;note&gt;" in card
    assert "&lt;script&gt;" in cards.failure_card(name, f"{name}: is broken")


def test_a_failure_says_the_name_once() -> None:
    card = cards.failure_card("a.png", "a.png: is broken")
    assert "<p>Is broken</p>" in card
    assert card.count("a.png") == 1


def test_numbers_in_words() -> None:
    assert cards.megapixels(2000) == "2000 pixels"
    assert cards.megapixels(1_999_999) == "1.9 megapixels"
    assert cards.megapixels(62_400_000) == "62 megapixels"
    assert cards.duration(6.44) == "6.4 s"
    assert cards.duration(99) == "99 s"
    assert cards.duration(150) == "2.5 minutes"
    assert cards.file_size(3_240_000) == "3.2 MB"
    assert cards.summary(2, 1, stopped=False).startswith("2 pictures upscaled, 1 not. ")
    assert cards.summary(0, 0, stopped=True) == "Stopped. 0 pictures upscaled."
    assert cards.formats((".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")) == "PNG, JPEG, WebP, TIFF"


def test_a_picture_that_is_too_large_is_told_how_large_it_may_be() -> None:
    message = cards.too_large("a.jpg", (8000, 6000), 33_000_000, 4)
    assert message == "a.jpg: 8000×6000 pixels are too many. This page takes pictures of up to 33 megapixels at ×4."


def test_choices_have_no_names_of_folders(choices: Choices) -> None:
    assert list(choices.scales()) == ["×2", "×2 with mine.pth"]
