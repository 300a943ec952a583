"""If these fail, `eval.py` gives other figures on several devices or processes, or some wait for one that failed."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import seemore_jax as sj
from seemore_jax.data import read_image, write_image
from tests.support.release import ported, release_model
from tests.support.training_runs import Process, expect, finish, run_together

CONFIG = sj.SeemoReConfig.variant("T", 2)
# Of one size more than devices, and others.
SIZES = {"A/a": (40, 44), "A/b": (40, 44), "A/c": (40, 44), "B/d": (44, 40), "B/e": (40, 44), "B/f": (40, 44)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        write_image(folder / "sets" / f"{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    sj.save(ported(release_model(CONFIG), CONFIG), folder / "w.safetensors")
    return folder


def evaluate(output: Path, data: Path, *arguments: str, processes: int, devices: int) -> list[tuple[int, str]]:
    """Exit statuses and outputs of `eval.py` as that many processes of that many devices each."""
    command = [sys.executable, "eval.py", "--config=configs/seemore_t_x2.py", f"--data={data}", f"--output={output}"]
    return run_together([*command, *arguments], processes=processes, devices=devices)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "arguments", [("--weights={}/w.safetensors",), ("--weights={}/w.safetensors", "--tta"), ("--weights=bicubic",)]
)
def test_the_same_figures_on_several_processes_and_devices(
    data: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    given = [argument.format(data) for argument in arguments]
    outputs = []
    for processes, devices in ((1, 1), (2, 2)):
        output = tmp_path / f"{processes}x{devices}"
        ended = evaluate(output, data / "sets", *given, processes=processes, devices=devices)
        expect(ended, 0)
        assert "PSNR" in ended[0][1]
        assert all("PSNR" not in text for _, text in ended[1:])
        outputs.append(output)
    one, several = (json.loads((output / "results.json").read_text()) for output in outputs)
    assert list(several["sets"]["A"]["images"]) == ["a", "b", "c"]
    assert _flat(several) == pytest.approx(_flat(one), rel=1e-12)
    for name in SIZES:
        first, second = (read_image(output / f"{name}.png") for output in outputs)
        np.testing.assert_array_equal(first, second)
    files = [sorted(path.relative_to(output) for path in output.rglob("*")) for output in outputs]
    assert files[0] == files[1]
    assert (outputs[0] / "comparison.png").read_bytes() == (outputs[1] / "comparison.png").read_bytes()


_LARGE = """
import json
import jax, numpy as np
from seemore_jax.system.device_map import map_over_devices
from seemore_jax.inference import runner
from tests.inference.test_strips import VARIANTS, image_of, model_of

runner._SPLIT_PIXELS = 0
runner.run_split = None  # starts a program on all devices
whole, asked = runner._run_whole, set()

class Device:
    def __init__(self, device):
        self.device = device
    def memory_stats(self):
        asked.add(self.device.id)

chosen = runner._chosen_device
runner._chosen_device = lambda: chosen() and Device(chosen())

def on_its_device(model, images, dtype):
    sr, routing = whole(model, images, dtype)
    used.append(jax.numpy.zeros(()).device.id)
    return sr, routing

runner._run_whole, used = on_its_device, []
model, image = model_of(VARIANTS["T"]), image_of(20, 20)
found = dict(map_over_devices(lambda item: [float(runner.run(model, image[None])[0].mean())], 8))
print(json.dumps([sorted(found), len(set(map(tuple, found.values()))), sorted(set(used)), sorted(asked), len(used)]))
"""


@pytest.mark.thorough
def test_a_large_image_is_computed_on_one_device() -> None:
    """A program on all devices, started by several threads, stands still for ever on accelerators."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    ((status, output),) = finish(Process([sys.executable, "-c", _LARGE], environment))
    assert status == 0, output
    items, different, used, asked_for_memory, computed = json.loads(output.splitlines()[-1])
    assert items == list(range(8))
    assert (different, computed) == (1, 8)
    assert used == asked_for_memory == [0, 1, 2, 3]


def _flat(results: dict[str, object], name: str = "") -> dict[str, float]:
    figures: dict[str, float] = {}
    for key, value in results.items():
        if isinstance(value, dict):
            figures |= _flat(value, f"{name}/{key}")
        elif isinstance(value, float):
            figures[f"{name}/{key}"] = value
    return figures


@pytest.mark.thorough
def test_a_bad_image_ends_all_processes_with_one_line(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / "S" / f"{name}.png", np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "S" / "b.png").write_bytes(b"no image")  # the second process's
    ended = evaluate(tmp_path / "out", tmp_path / "S", "--weights=bicubic", processes=2, devices=1)
    for status, output in ended:
        assert status == 2, output
        assert output.count("error:") == 1
        assert "b.png: not a readable image" in output
        assert "Traceback" not in output
    assert not (tmp_path / "out" / "results.json").exists()


def test_one_process_with_a_bad_image_ends_as_well(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "S").mkdir(exist_ok=True)
        (tmp_path / "S" / f"{name}.png").write_bytes(b"no image")
    ((status, output),) = evaluate(tmp_path / "out", tmp_path / "S", "--weights=bicubic", processes=1, devices=1)
    assert status == 2
    assert output.count("error:") == output.count("\n") == 1
