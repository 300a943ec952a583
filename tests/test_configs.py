"""If these fail, published configurations cannot be used by their names, or a checkout's `configs/` has others."""

from pathlib import Path

import pytest

import seemore_jax.configs
from seemore_jax.configs import config_file
from seemore_jax.training.experiment import read_experiment

# ml_collections loads the files by a method that Python will remove.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = Path(__file__).parents[1]
FOLDER = Path(seemore_jax.configs.__file__).parent


def test_the_folder_of_a_checkout_leads_to_the_package() -> None:
    assert (ROOT / "configs").resolve() == FOLDER


@pytest.mark.parametrize("name", ["seemore_t_x4", "configs/seemore_t_x4.py"])
def test_a_name_stands_for_a_configuration(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # outside of the checkout
    assert config_file(name) == str(FOLDER / "seemore_t_x4.py")
    assert read_experiment(name).scale == 4


def test_a_file_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, who has changed a copy of a published configuration trains with the published one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seemore_t_x4.py").write_text("")
    assert config_file("seemore_t_x4.py") == "seemore_t_x4.py"


def test_the_argument_of_a_file_stays() -> None:
    assert config_file("ablations:topk_2") == f"{FOLDER / 'ablations.py'}:topk_2"
    assert read_experiment("ablations:topk_2").network.topk == 2


@pytest.mark.parametrize("name", ["none", "__init__", "configs/none.py", "mine/seemore_t_x4.py"])
def test_other_names_stay(name: str) -> None:
    """Otherwise, a mistyped path of one's own configuration would train with a published one."""
    assert config_file(name) == name
