"""A small network, and a folder for its results."""

from pathlib import Path

import pytest

import seemore_jax as sj
from seemore_jax.network import SeemoRe
from seemore_jax.web.choices import Choices
from tests.support.release import ported, release_model

SMALL = sj.SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1)


@pytest.fixture(scope="session")
def model() -> SeemoRe:
    return ported(release_model(SMALL), SMALL)


@pytest.fixture
def choices(model: SeemoRe) -> Choices:
    return Choices({"T-x2": model}, {"mine.pth": model}, "×2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results"
