"""If these fail, an interruption changes the result of a run, loses it, or leaves processes hanging."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seemore_jax as sj
from seemore_jax.data import write_image
from seemore_jax.data.preparation import prepare
from seemore_jax.training.loop import train
from tests.training import tiny_config
from tests.training.runs import checkpoint_steps, finish, losses, newest_state, start, start_together

# They share the run that was not interrupted.
pytestmark = pytest.mark.xdist_group("runs")

# More kills for a longer test: SEEMORE_KILLS=10.
KILLS = int(os.environ.get("SEEMORE_KILLS", "2"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for number in range(4):
        write_image(folder / "images" / f"{number}.png", rng.integers(0, 256, (96, 80, 3), dtype=np.uint8))
    prepare("image_folder", folder, scales=(2,), sources=[folder / "images"])
    return folder


@pytest.fixture(scope="module")
def uninterrupted(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 steps in one go, on one device."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    ((status, output),) = finish(start(workdir, data_dir))
    assert status == 0, output
    return workdir


def wait_for_first_loss(workdir: Path, process: subprocess.Popen[str]) -> None:
    while not (workdir / "history.jsonl").exists() or not losses(workdir):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def assert_same_run(workdir: Path, expected: Path) -> None:
    """Bit-identical parameters, average, optimizer, step and key, and the same loss at every step."""
    assert losses(workdir) == losses(expected)
    mine, theirs = newest_state(workdir), newest_state(expected)
    assert mine.keys() == theirs.keys()
    assert {name.split("/")[1] for name in mine} == {"step", "parameters", "average", "optimizer", "key"}
    for name, array in theirs.items():
        np.testing.assert_array_equal(mine[name], array, err_msg=name)
    final = "weights/final.safetensors"
    assert (workdir / final).read_bytes() == (expected / final).read_bytes()


def test_a_run_leaves_what_it_promises(uninterrupted: Path) -> None:
    assert list(losses(uninterrupted)) == list(range(1, 31))
    assert checkpoint_steps(uninterrupted) == [24, 27, 30]
    for name in ("config.json", "versions.json", "curves.png", "tensorboard"):
        assert (uninterrupted / name).exists()
    model = sj.load(uninterrupted / "weights" / "final.safetensors")
    assert model.config.embedding_dim == 8


def test_killed_at_random_moments_it_ends_the_same(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(KILLS):
        process = start(tmp_path, data_dir)
        before = checkpoint_steps(tmp_path)[-1:]
        deadline = time.monotonic() + 120
        # Somewhere after the next checkpoint has begun to matter.
        while checkpoint_steps(tmp_path)[-1:] == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        finish(process)
    ((status, output),) = finish(start(tmp_path, data_dir))
    assert status == 0, output
    assert_same_run(tmp_path, uninterrupted)


def test_sigterm_saves_and_exits_with_143(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    process = start(tmp_path, data_dir, "checkpoint_every=100")
    wait_for_first_loss(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    ((status, output),) = finish(process)
    stopped_at = checkpoint_steps(tmp_path)
    assert status == 143, output
    assert len(stopped_at) == 1
    ((status, output),) = finish(start(tmp_path, data_dir))
    assert status == 0, output
    assert f"going on from step {stopped_at[0]}" in output
    assert_same_run(tmp_path, uninterrupted)


def test_a_damaged_checkpoint_is_passed_over(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "30" / "default").rglob("*"):
        if file.is_file() and file.name != "_METADATA":
            file.write_bytes(file.read_bytes()[:10])
    ((status, output),) = finish(start(tmp_path / "run", data_dir))
    assert status == 0, output
    assert "checkpoint 30 cannot be read and is passed over" in output
    assert "going on from step 27" in output
    assert_same_run(tmp_path / "run", uninterrupted)


def test_without_any_readable_checkpoint_it_says_so(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(b"")
    ((status, output),) = finish(start(tmp_path / "run", data_dir))
    assert status == 2
    assert "none of the checkpoints [24, 27, 30] can be read" in output
    assert checkpoint_steps(tmp_path / "run") == [24, 27, 30]


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(data_dir: Path, tmp_path: Path) -> None:
    ((status, output),) = finish(start(tmp_path, data_dir, "learning_rate=1e36"))
    assert status == 1
    assert "the loss is" in output.splitlines()[-1]
    assert "step" in output.splitlines()[-1]
    assert checkpoint_steps(tmp_path) in ([], [3])


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 7, "accumulate": 2}, "batch_size must be a multiple of 2"),
        ({"dataset": "div2k"}, "python -m seemore_jax prepare div2k"),
        ({"schedule": "linear"}, "schedule must be one of"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
        ({"scale": 5}, "scale of a variant"),
        ({"validation": ("missing",)}, "missing: no such"),
        ({"init_from": "missing.pth"}, r"missing\.pth: no such file"),
    ],
    ids=str,
)
def test_wrong_configurations_are_refused_in_one_line(
    data_dir: Path, tmp_path: Path, fields: dict[str, Any], complaint: str
) -> None:
    config = tiny_config.get_config()
    config.data_dir = str(data_dir)
    config.update(fields)
    with pytest.raises(sj.InputError, match=complaint) as raised:
        train(config, tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "weights").exists()


def test_devices_and_processes_do_not_change_the_losses(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """Two processes with two devices each, of which one is told to stop; then one with four goes on."""
    together = start_together(tmp_path, data_dir, "checkpoint_every=100", processes=2, devices=2)
    wait_for_first_loss(tmp_path, together[0])
    together[1].send_signal(signal.SIGTERM)
    for status, output in finish(*together):
        assert status == 143, output
    (stopped_at,) = checkpoint_steps(tmp_path)
    assert stopped_at < 30
    ((status, output),) = finish(start(tmp_path, data_dir, devices=4))
    assert status == 0, output
    expected, mixed = losses(uninterrupted), losses(tmp_path)
    assert mixed.keys() == expected.keys()
    for step, loss in expected.items():
        assert mixed[step] == pytest.approx(loss, rel=1e-5), step


def test_when_one_process_is_killed_the_others_end(data_dir: Path, tmp_path: Path) -> None:
    first, second = start_together(tmp_path, data_dir, "num_steps=100000", processes=2, devices=1)
    deadline = time.monotonic() + 180
    while not checkpoint_steps(tmp_path):
        assert time.monotonic() < deadline
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.1)
    second.kill()
    killed_at = time.monotonic()
    (status, output), _ = finish(first, second, timeout=60)
    assert time.monotonic() - killed_at < 60
    # Either a collective fails first, or JAX's coordination service, which aborts.
    assert status in (1, -signal.SIGABRT), output
    assert "perhaps because another one of the run is lost" in output or "another task died" in output
