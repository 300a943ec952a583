"""If these fail, `eval.py` reports other scores, files, messages or exit statuses than documented."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

import seemore_jax as sj
from seemore_jax.data import read_image, write_image
from seemore_jax.network.config import SCALES, VARIANTS
from tests.support.release import ported, release_model, zeros

ROOT = Path(__file__).parents[1]


def run_eval(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "eval.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", VARIANTS)
def test_each_published_configuration_has_a_config(name: str, scale: int) -> None:
    config: ConfigDict = importlib.import_module(f"seemore_jax.configs.seemore_{name.lower()}_x{scale}").get_config()
    assert (config.variant, config.scale) == (name, scale)


def test_evaluates_weights(tmp_path: Path) -> None:
    config = sj.SeemoReConfig.variant("T", 2)
    sj.save(ported(release_model(config), config), tmp_path / "w.pth")
    write_image(tmp_path / "S" / "x.png", np.random.default_rng(0).integers(0, 256, (40, 44, 3), dtype=np.uint8))
    (tmp_path / "S2").mkdir()
    write_image(tmp_path / "S2" / "HR" / "y.png", read_image(tmp_path / "S" / "x.png"))
    done = run_eval(
        "--config=configs/seemore_t_x2.py",
        f"--weights={tmp_path / 'w.pth'}",
        f"--data={tmp_path / 'S'},{tmp_path / 'S2'}",
        f"--output={tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["sets"]) == ["S", "S2"]
    for line in ("bicubic", "SeemoRe-T", "S2"):
        assert line in done.stdout
    sr = read_image(tmp_path / "out" / "S" / "x.png")
    hr = read_image(tmp_path / "S" / "x.png")
    assert results["sets"]["S"]["images"]["x"]["psnr"] == sj.metrics.psnr(sr, hr, shave=2)
    np.testing.assert_array_equal(sr, sj.upscale(sj.load(tmp_path / "w.pth"), sj.imresize(hr, 1 / 2)))


def test_self_ensemble(tmp_path: Path) -> None:
    config = sj.SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1)
    model = ported(release_model(config), config)
    sj.save(model, tmp_path / "w.safetensors")
    hr = np.random.default_rng(0).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    write_image(tmp_path / "S" / "x.png", hr)
    arguments = [
        "--config=configs/seemore_t_x2.py",
        "--config.architecture={'embedding_dim': 8, 'num_layers': 1}",
        f"--data={tmp_path / 'S'}",
        f"--output={tmp_path / 'out'}",
        "--tta",
    ]
    done = run_eval(f"--weights={tmp_path / 'w.safetensors'}", *arguments)
    assert done.returncode == 0, done.stderr
    assert "SeemoRe-T+" in done.stdout
    lr, sr = sj.imresize(hr, 1 / 2), read_image(tmp_path / "out" / "S" / "x.png")
    np.testing.assert_array_equal(sr, sj.upscale(model, lr, ensemble=True))
    assert (sr != sj.upscale(model, lr)).any()


def test_bicubic_alone(benchmark_data: Path, tmp_path: Path) -> None:
    done = run_eval(
        "--config=configs/seemore_l_x4.py",
        "--weights=bicubic",
        f"--data={benchmark_data / 'Set5'}",
        f"--output={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert "28.43 / 0.8111" in done.stdout
    assert "SeemoRe" not in done.stdout
    set5 = json.loads((tmp_path / "results.json").read_text())["sets"]["Set5"]
    assert set5["psnr"] == set5["bicubic"]["psnr"] == pytest.approx(28.4290, abs=0.0002)
    assert sorted(set5["images"]) == ["baby", "bird", "butterfly", "head", "woman"]


# Runs `python eval.py` with several lists of arguments, after a single import.
_SEVERAL = """
import json, os, sys
import eval

for arguments in json.loads(sys.argv[1]):
    if os.fork() == 0:
        sys.argv = ["eval.py", *arguments]
        eval.main(sys.argv)
    _, status = os.wait()
    print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), file=sys.stderr, flush=True)
"""


@pytest.mark.thorough
def test_wrong_inputs_give_one_line_and_status_2(tmp_path: Path) -> None:
    sj.save(zeros(sj.SeemoReConfig.variant("T", 2)), tmp_path / "t2.safetensors")
    write_image(tmp_path / "S" / "x.png", np.zeros((40, 40), np.uint8))
    config, weights = "--config=configs/seemore_t_x4.py", "--weights=bicubic"
    data, output = f"--data={tmp_path / 'S'}", f"--output={tmp_path / 'out'}"
    cases = [
        (["--config=configs/none.py", weights, data, output], "none.py"),
        ([config, "--config.scale=0", weights, data, output], "scale of a variant must be"),
        (
            [config, "--config.sclae=2", weights, data, output],
            "--config.sclae: there is no such field; did you mean sca",
        ),
        (
            [config, "--config.architecture.depth=2", weights, data, output],
            "fields here are embedding_dim, global_kern",
        ),
        ([config, "--config.architecture.topk=two", weights, data, output], "invalid literal for int"),
        (["--config=configs/ablations.py:none", weights, data, output], "topk_2, topk_3"),
        ([config, weights, "--data=", output], "no images"),
        ([config, weights, data, output, "stray"], "stray"),
        ([config, data, output], "weights"),
        ([config, weights, data, output, "--tta"], "bicubic"),
        ([config, weights, f"--data={tmp_path / 'missing'}", output], "no such folder"),
        ([config, f"--weights={tmp_path / 'missing.pth'}", data, output], "no such file"),
        ([config, f"--weights={tmp_path / 't2.safetensors'}", data, output], "holds a SeemoRe-T ×2"),
    ]
    command = [sys.executable, "-c", _SEVERAL, json.dumps([arguments for arguments, _ in cases])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    # Each run prints one line and its status. A second line of a run would shift all following lines.
    lines = done.stderr.splitlines()
    assert len(lines) == 2 * len(cases), done.stderr
    for (arguments, complaint), line, status in zip(cases, lines[::2], lines[1::2], strict=True):
        assert json.loads(status) == {"status": 2}, arguments
        assert line.startswith("error: ")
        assert complaint in line
    assert not (tmp_path / "out").exists()
