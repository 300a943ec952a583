"""If these fail, `export` writes another format than the suffix names, or an error is not reported in one line."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import seemore_jax as sj
from seemore_jax.command_line import main
from seemore_jax.data import read_image
from seemore_jax.exporting.load_stablehlo import load_stablehlo
from seemore_jax.network import SeemoReConfig
from tests.exporting.networks import TOLERANCE
from tests.support.release import run_compiled, zeros

SMALL = SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1)

pytestmark = pytest.mark.usefixtures("unchecked")  # an exported program has symbolic sizes


@pytest.fixture(scope="module")
def photograph(benchmark_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns a photograph, and its upscaling by the bundled weights."""
    (file,) = (benchmark_data / "Set5" / "LR_bicubic" / "X4").glob("butterfly*")
    lr = read_image(file)[None].astype(np.float32) / 255
    return lr, np.asarray(run_compiled(sj.load("T-x4"), lr))


def run_file(path: Path, lr: np.ndarray) -> Any:
    if path.suffix == ".stablehlo":
        return load_stablehlo(path)(lr)
    network = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return network.run(None, {"lr": lr.transpose(0, 3, 1, 2)})[0].transpose(0, 2, 3, 1)


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", [".stablehlo", ".onnx"])
def test_bundled_weights_on_a_photograph(
    suffix: str, photograph: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "folder" / f"T-x4{suffix}"
    assert main(["export", "-m", "T-x4", str(path)]) == 0
    np.testing.assert_allclose(run_file(path, photograph[0]), photograph[1], rtol=0, atol=TOLERANCE)


def test_what_cannot_be_written_gives_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sj.save(zeros(SMALL), tmp_path / "model.pth")
    (tmp_path / "file").write_text("in the way")
    before = sorted(tmp_path.rglob("*"))

    def complaint(target: str, model: str = "model.pth") -> str:
        assert main(["export", "-m", str(tmp_path / model), str(tmp_path / target)]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return printed

    assert "use .stablehlo or .onnx" in complaint("out.tflite")
    assert "no such file" in complaint("out.onnx", model="missing.pth")
    assert str(tmp_path / "file" / "out.onnx") in complaint("file/out.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "needs the package onnx: pip install 'seemore-jax[onnx]'" in complaint("out.onnx")
    assert "needs the package flatbuffers: pip install 'seemore-jax[stablehlo]'" in complaint("out.stablehlo")
