"""If these fail, a command works only in a checkout, or only with packages that its extra does not bring."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seemore_jax.data import write_image

ROOT = Path(__file__).parents[2]
# What the light core does not install: a program that imports one of these needs an extra.
OF_EXTRAS = (
    *("ml_collections", "matplotlib", "skimage"),
    *("tensorflow_datasets", "grain", "array_record", "tensorboardX", "importlib_resources"),
    *("gradio", "onnx", "onnxruntime", "flatbuffers", "huggingface_hub", "pillow_heif"),
)
WITHOUT = """
import sys
for name in {names!r}:
    sys.modules[name] = None
from seemore_jax.command_line import main
sys.exit(main(sys.argv[1:]))
"""


def run(folder: Path, *arguments: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs a command outside of the checkout, in a process where the packages in `without` cannot be imported."""
    program = ["-c", WITHOUT.format(names=without)] if without else ["-m", "seemore_jax"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8))
    return tmp_path / "a.png"


def test_upscaling_needs_no_extra(photograph: Path) -> None:
    done = run(photograph.parent, "upscale", "a.png", "-s", "2", "-o", "b.png", without=OF_EXTRAS)
    assert done.returncode == 0, done.stderr
    assert "40×48 → 80×96" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["train", "--config=quickstart", "--workdir=run"], "grain", "train"),
        (["evaluate", "--config=seemore_t_x2", "--weights=bicubic"], "ml_collections", "eval"),
        (["prepare", "div2k", "--data_dir=data"], "tensorflow_datasets", "train"),
        (["compile", "--config=seemore_t_x4", "--topology=v5e:1x1"], "ml_collections", "train"),
        (["demo"], "skimage", "eval"),
        (["routes", "a.png", "-o", "routes.png"], "matplotlib", "eval"),
    ],
    ids=["train", "evaluate", "prepare", "compile", "demo", "routes"],
)
def test_a_missing_extra_is_named(photograph: Path, arguments: list[str], package: str, extra: str) -> None:
    done = run(photograph.parent, *arguments, without=(package,))
    assert done.returncode == 2, done.stderr
    expected = f"error: needs the package {package}, which is not installed: pip install 'seemore-jax[{extra}]'\n"
    assert done.stderr == expected


def test_evaluation_by_the_name_of_a_configuration(photograph: Path) -> None:
    """Whoever has only the wheel can evaluate; the script of the checkout gives the same table."""
    flags = ["--weights=bicubic", f"--data={photograph}", "--output=out"]
    packaged = run(photograph.parent, "evaluate", "--config=seemore_t_x2", *flags)
    assert packaged.returncode == 0, packaged.stderr
    assert "bicubic" in packaged.stdout
    script = [sys.executable, str(ROOT / "eval.py"), "--config=configs/seemore_t_x2.py", *flags]  # from another folder
    done = subprocess.run(script, cwd=photograph.parent, capture_output=True, text=True, check=False)
    assert done.stdout == packaged.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "flag"), [("train", "--workdir"), ("evaluate", "--weights"), ("evaluate", "--coordinator")]
)
def test_help_lists_the_flags(tmp_path: Path, command: str, flag: str) -> None:
    done = run(tmp_path, command, "--help")
    assert done.returncode == 0, done.stderr
    assert flag in done.stdout
    assert f"seemore-jax {command} --config" in done.stdout


def test_a_wrong_flag_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "train", "--config=seemore_t_x4", "--workdir=run", "--config.batchsize=3")
    assert done.returncode == 2
    assert "did you mean batch_size?" in done.stderr
    assert done.stderr.count("\n") == 1
