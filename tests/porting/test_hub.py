"""If these fail, weights cannot be shared through the Hugging Face hub, or a mistyped path causes a network request."""

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import seemore.module
import torch
import yaml

import seemore_jax as sj
from seemore_jax.command_line import main
from seemore_jax.network import SeemoReConfig
from seemore_jax.porting import read_weights
from seemore_jax.porting.hub import FILES
from seemore_jax.porting.weights import BUNDLED
from tests.support.release import ported, release_model, zeros

SMALL = SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1)
ERRORS = (
    "GatedRepoError",
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
)


class Hub(ModuleType):
    """Stands in for `huggingface_hub`: answers every call with `answer`, which is raised if it is an exception."""

    def __init__(self, answer: Path | Exception | None = None) -> None:
        super().__init__("huggingface_hub")
        self.answer = answer
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.errors = SimpleNamespace(**{name: type(name, (OSError,), {}) for name in ERRORS})

    def snapshot_download(self, *arguments: Any, **options: Any) -> str:
        self.calls.append((arguments, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    monkeypatch.chdir(tmp_path)
    stand_in = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    return stand_in


def test_a_repository_is_fetched_and_loaded(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sj.save(zeros(SMALL), tmp_path / "cache")
    hub.answer = tmp_path / "cache"
    assert sj.load("user/seemore.v2").config == SMALL
    (arguments, options), *others = hub.calls
    assert not others
    assert arguments == ("user/seemore.v2",)
    assert set(options["allow_patterns"]) == {"config.json", "model.safetensors"}
    assert main(["info", "user/seemore.v2"]) == 0
    assert str(tmp_path / "cache") in capsys.readouterr().out


def test_the_clients_signature_takes_the_call(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.answer = tmp_path / "empty"
    with pytest.raises(sj.WeightsError, match=r"user/name: this repository .* has no model\.safetensors"):
        sj.load("user/name")
    arguments, options = hub.calls[0]
    monkeypatch.undo()
    real = importlib.import_module("huggingface_hub")
    inspect.signature(real.snapshot_download).bind(*arguments, **options)
    assert all(issubclass(getattr(real.errors, name), Exception) for name in ERRORS)


def test_what_is_on_disk_comes_first(hub: Hub, tmp_path: Path) -> None:
    sj.save(zeros(SMALL), tmp_path / "user" / "name")
    assert sj.load("user/name").config == SMALL
    assert read_weights("T-x2").source.parent == BUNDLED
    assert not hub.calls


@pytest.mark.parametrize(
    "path",
    ["models/x.pth", "models/x.PT", "runs/x.safetensors", "/models/x", "./x", "../x", "a/b/c", "model", "a/", "x.onnx"],
)
def test_a_wrong_path_does_not_ask_the_hub(hub: Hub, path: str) -> None:
    with pytest.raises(sj.WeightsError, match=r"no such file or directory$"):
        sj.load(path)
    with pytest.raises(sj.WeightsError, match=r"no such file or directory$"):
        sj.load(Path("user/name"))
    assert not hub.calls


def test_a_mistyped_path_does_not_ask_the_hub_either(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The path has the form of a repository, but its first part is a folder on this machine."""
    (tmp_path / "models").mkdir()
    for name in ("T-x4.safetensors", "T-x2.safetensors", "other.txt"):
        (tmp_path / "models" / name).touch()
    for source, suggestion in [
        ("models/T-x4", "; did you mean models/T-x4.safetensors or models/T-x2.safetensors?"),
        ("models/T-x4@main", "; did you mean models/T-x4.safetensors?"),
        ("models/mine", ""),
    ]:
        assert main(["info", source]) == 2
        message = f"{source}: no such file or directory (the hub is not asked: models is a folder here){suggestion}"
        assert capsys.readouterr().err == f"error: {message}\n"
    for source, suggestion in [
        ("models/T_x4.safetensors", "; did you mean models/T-x4.safetensors or models/T-x2.safetensors?"),
        ("model", "; did you mean models?"),
        ("model/T-x4.safetensors", ""),
    ]:
        assert main(["info", source]) == 2
        assert capsys.readouterr().err == f"error: {source}: no such file or directory{suggestion}\n"
    assert not hub.calls


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", "0123456789abcdef0123456789abcdef01234567"])
def test_a_revision_is_passed_on(hub: Hub, tmp_path: Path, revision: str) -> None:
    sj.save(zeros(SMALL), tmp_path / "cache")
    hub.answer = tmp_path / "cache"
    assert sj.load(f"user/name@{revision}").config == SMALL
    assert main(["info", f"user/name@{revision}"]) == 0
    assert main(["convert", f"user/name@{revision}", str(tmp_path / "converted.safetensors")]) == 0
    assert sj.load("user/name").config == SMALL
    called = [(arguments, options["revision"]) for arguments, options in hub.calls]
    assert called == [(("user/name",), revision)] * 3 + [(("user/name",), None)]


@pytest.mark.parametrize("revision", ["v9", ""])
def test_an_unknown_revision_is_one_line(hub: Hub, revision: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a revision, `main` is taken, which an empty repository does not have."""
    hub.answer = hub.errors.RevisionNotFoundError("long\nstory")
    source = f"user/name@{revision}".removesuffix("@")
    assert main(["info", source]) == 2
    printed = capsys.readouterr().err
    expected = f"this repository on the Hugging Face hub has no branch, tag or commit {revision or 'main'}"
    assert printed == f"error: {source}: {expected}\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "no such file or directory, and no such repository on the Hugging Face hub"),
        ("GatedRepoError", "accept the conditions on https://huggingface.co/user/name"),
        ("LocalEntryNotFoundError", "no such file or directory, and the Hugging Face hub cannot be reached"),
        ("OfflineModeIsEnabled", "no such file or directory, and the Hugging Face hub cannot be reached"),
        (RuntimeError("peer closed\nconnection"), "cannot be fetched from the Hugging Face hub: peer closed"),
        (RuntimeError(), "cannot be fetched from the Hugging Face hub: RuntimeError"),
    ],
    ids=str,
)
def test_what_goes_wrong_is_one_line(
    hub: Hub, error: str | Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answer = getattr(hub.errors, error)("long\nstory") if isinstance(error, str) else error
    assert main(["info", "user/name"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: user/name: {message}")
    assert printed.count("\n") == 1


def test_without_the_client_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["info", "user/name"]) == 2
    printed = capsys.readouterr().err
    assert "no such file or directory" in printed
    assert "pip install 'seemore-jax[hub]'" in printed
    assert printed.count("\n") == 1


def front_matter(card: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1])


def test_convert_writes_what_a_repository_needs(tmp_path: Path) -> None:
    assert main(["convert", "T-x4", str(tmp_path / "model")]) == 0
    assert {file.name for file in (tmp_path / "model").iterdir()} == {*FILES, "README.md"}
    card = (tmp_path / "model" / "README.md").read_text()
    assert "# SeemoRe-T ×4" in card
    assert "231,804 parameters" in card
    fields = front_matter(card)
    assert fields["license"] == "apache-2.0"
    assert fields["pipeline_tag"] == "image-to-image"
    assert fields["library_name"] == "seemore-jax"


def test_the_card_of_other_weights_leaves_their_licence_open(tmp_path: Path) -> None:
    sj.save(zeros(SMALL), tmp_path / "model.pth")
    assert main(["convert", str(tmp_path / "model.pth"), str(tmp_path / "model")]) == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert front_matter(card)["license"] == "unknown"
    assert "# SeemoRe ×2" in card


def test_the_hubs_client_reads_the_card(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    sj.save(zeros(SMALL), tmp_path, license="mit")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "seemore-jax", "image-to-image")


def test_a_card_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    sj.save(zeros(SMALL), tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert sj.load(tmp_path).config == SMALL


def test_what_the_card_shows_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = release_model(SMALL)
    sj.save(ported(release, SMALL), tmp_path / "DIRECTORY")
    card = (tmp_path / "DIRECTORY" / "README.md").read_text()
    in_jax, in_pytorch = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {"image": np.full((20, 16, 3), 90, np.uint8)}
    monkeypatch.chdir(tmp_path)
    exec(compile(in_jax, "README.md", "exec"), names)
    assert names["large"].shape == (40, 32, 3)
    monkeypatch.chdir(tmp_path / "DIRECTORY")
    exec(compile(in_pytorch, "README.md", "exec"), names)
    assert isinstance(names["network"], seemore.module.SeemoRe)
    for name, tensor in release.state_dict().items():
        assert torch.equal(names["network"].state_dict()[name], tensor)
