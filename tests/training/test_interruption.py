"""If these fail, an interruption changes the result of a run, loses it, or leaves processes hanging."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

import seemore_jax as sj
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.interruption import stop_request
from seemore_jax.training.loop import train
from tests.support import tiny_config
from tests.support.training_runs import (
    ROOT,
    Process,
    checkpoint_steps,
    damage,
    finish,
    losses,
    newest_state,
    random_dataset,
    start,
    start_together,
    wait_for,
)

# Each checkpoint takes time; where nothing depends on their number there are few.
FEW = "checkpoint_every=10"

# More kills for a longer test: SEEMORE_KILLS=10.
KILLS = int(os.environ.get("SEEMORE_KILLS", "2"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    random_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 steps in one go, on one device."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    ((status, output),) = finish(start(workdir, data_dir, FEW))
    assert status == 0, output
    return workdir


def tiny(data_dir: Path, **fields: Any) -> ConfigDict:
    """What `start` trains, for a run in this process."""
    config = tiny_config.get_config()
    config.data_dir = str(data_dir)
    config.update(fields)
    return config


def wait_for_first_loss(workdir: Path, process: Process) -> None:
    wait_for(lambda: bool(losses(workdir)), process)


def assert_same_run(workdir: Path, expected: Path) -> None:
    """Bit-identical parameters, average, optimizer and step, and the same loss at every step."""
    assert losses(workdir) == losses(expected)
    mine, theirs = newest_state(workdir), newest_state(expected)
    assert mine.keys() == theirs.keys()
    assert {name.split("/")[1] for name in mine} == {"step", "parameters", "average", "optimizer"}
    for name, array in theirs.items():
        np.testing.assert_array_equal(mine[name], array, err_msg=name)
    final = "weights/final.safetensors"
    assert (workdir / final).read_bytes() == (expected / final).read_bytes()


@pytest.mark.thorough
def test_a_run_leaves_what_it_promises(uninterrupted: Path) -> None:
    assert list(losses(uninterrupted)) == list(range(1, 31))
    assert checkpoint_steps(uninterrupted) == [10, 20, 30]
    for name in ("config.json", "versions.json", "curves.png", "tensorboard"):
        assert (uninterrupted / name).exists()
    model = sj.load(uninterrupted / "weights" / "final.safetensors")
    assert model.config.embedding_dim == 8


def kill_after_the_next_checkpoint(workdir: Path, process: Process, seconds: float) -> None:
    before = checkpoint_steps(workdir)[-1:]
    wait_for(lambda: checkpoint_steps(workdir)[-1:] != before, process)
    time.sleep(seconds)
    process.kill()
    finish(process)


@pytest.mark.thorough
def test_killed_at_random_moments_it_ends_the_same(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(KILLS):
        kill_after_the_next_checkpoint(tmp_path, start(tmp_path, data_dir), rng.uniform(0, 0.3))
    ((status, output),) = finish(start(tmp_path, data_dir, FEW))
    assert status == 0, output
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.thorough
def test_sigterm_saves_and_exits_with_143(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    process = start(tmp_path, data_dir, "checkpoint_every=100")
    wait_for_first_loss(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    ((status, output),) = finish(process)
    stopped_at = checkpoint_steps(tmp_path)
    assert status == 143, output
    assert len(stopped_at) == 1
    ((status, output),) = finish(start(tmp_path, data_dir, FEW))
    assert status == 0, output
    assert f"going on from step {stopped_at[0]}" in output
    assert_same_run(tmp_path, uninterrupted)


def test_a_run_in_the_background_leaves_ctrl_c_to_others() -> None:
    """A script starts background jobs with SIGINT ignored; neither before nor after SIGTERM may Ctrl-C stop them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_request() as request:
            signal.raise_signal(signal.SIGINT)
            assert request.signal == 0
            signal.raise_signal(signal.SIGTERM)
            assert request.signal == signal.SIGTERM
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_second_signal_kills() -> None:
    before = {which: signal.signal(which, signal.default_int_handler) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        with stop_request() as request:
            signal.raise_signal(signal.SIGINT)
            assert request.signal == signal.SIGINT
            assert {signal.getsignal(which) for which in before} == {signal.SIG_DFL}
        assert {signal.getsignal(which) for which in before} == {signal.default_int_handler}
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


@pytest.mark.thorough
def test_a_damaged_checkpoint_is_passed_over(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints", 30)
    ((status, output),) = finish(start(tmp_path / "run", data_dir, FEW))
    assert status == 0, output
    assert "checkpoint 30 cannot be read and is passed over" in output
    assert "going on from step 20" in output
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.thorough
def test_without_any_readable_checkpoint_it_says_so(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    for step in (10, 20, 30):
        damage(tmp_path / "run" / "checkpoints", step)
    # In a process of its own: what Orbax reads may go on after it has failed, and would be heard of in a later test.
    ((status, output),) = finish(start(tmp_path / "run", data_dir))
    assert status == 2, output
    assert "none of the checkpoints [10, 20, 30] can be read" in output.splitlines()[-1]
    assert checkpoint_steps(tmp_path / "run") == [10, 20, 30]


@pytest.mark.thorough
def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(data_dir: Path, tmp_path: Path) -> None:
    ((status, output),) = finish(start(tmp_path, data_dir, "learning_rate=1e36"))
    assert status == 2  # it would be again: launchers must not start it again
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
    with pytest.raises(sj.InputError, match=complaint) as raised:
        train(Experiment.of(tiny(data_dir, **fields)), tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "weights").exists()


@pytest.mark.thorough
def test_devices_and_processes_do_not_change_the_losses(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """Two processes with two devices each, of which one is told to stop; then one with four goes on."""
    together = start_together(tmp_path, data_dir, "checkpoint_every=100", processes=2, devices=2)
    wait_for_first_loss(tmp_path, together[0])
    together[1].send_signal(signal.SIGTERM)
    for status, output in finish(*together):
        assert status == 143, output
    (stopped_at,) = checkpoint_steps(tmp_path)
    assert stopped_at < 30
    ((status, output),) = finish(start(tmp_path, data_dir, FEW, devices=4))
    assert status == 0, output
    expected, mixed = losses(uninterrupted), losses(tmp_path)
    assert mixed.keys() == expected.keys()
    for step, loss in expected.items():
        assert mixed[step] == pytest.approx(loss, rel=1e-5), step


@pytest.mark.thorough
def test_processes_that_decode_change_nothing(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    ((status, output),) = finish(start(tmp_path, data_dir, FEW, "num_workers=4"))
    assert status == 0, output
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.thorough
def test_data_on_the_device_changes_nothing(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """Not even after an interruption."""
    process = start(tmp_path, data_dir, "data_on_device=True", "checkpoint_every=100")
    wait_for_first_loss(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    ((status, output),) = finish(process)
    assert status == 143, output
    ((status, output),) = finish(start(tmp_path, data_dir, "data_on_device=True"))
    assert status == 0, output
    assert "data on the device: 4 tiles" in output
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.thorough
def test_data_on_the_devices_of_two_processes(data_dir: Path, uninterrupted: Path, tmp_path: Path) -> None:
    together = start_together(tmp_path, data_dir, "data_on_device=True", processes=2, devices=2)
    for status, output in finish(*together):
        assert status == 0, output
    for step, loss in losses(uninterrupted).items():
        assert losses(tmp_path)[step] == pytest.approx(loss, rel=1e-5), step


_SPLIT = """
import sys
from pathlib import Path
from seemore_jax.data import device_tiles
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.loop import train
from tests.support import tiny_config

device_tiles._free_memory = lambda: 200_000  # four tiles of 96×80 in half of it, with their LR tiles, do not fit
config = tiny_config.get_config()
config.data_dir, config.data_on_device, config.num_steps = sys.argv[2], True, 6
sys.exit(train(Experiment.of(config), Path(sys.argv[1])))
"""


@pytest.mark.thorough
def test_data_split_over_devices_goes_on_as_well(data_dir: Path, tmp_path: Path) -> None:
    def run(workdir: Path) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
        command = [sys.executable, "-c", _SPLIT, str(workdir), str(data_dir)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "on each of 4 devices; split, each draws from its own share" in run(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "checkpoints" / "6")
    assert "going on from step 3" in run(tmp_path / "other")
    assert len(losses(tmp_path / "one")) == 6
    assert losses(tmp_path / "other") == losses(tmp_path / "one")
    final = "weights/final.safetensors"
    assert (tmp_path / "other" / final).read_bytes() == (tmp_path / "one" / final).read_bytes()


@pytest.mark.thorough
def test_when_one_process_is_killed_the_others_end(data_dir: Path, tmp_path: Path) -> None:
    # As many devices as before, for which the step is compiled already.
    first, second = start_together(tmp_path, data_dir, processes=2, devices=2)
    wait_for(lambda: bool(checkpoint_steps(tmp_path)), first, second)
    second.kill()
    killed_at = time.monotonic()
    (status, output), _ = finish(first, second, timeout=60)
    assert time.monotonic() - killed_at < 60
    assert status == 1, output
    assert "process 1 ended: lost: no sign of life" in output


@pytest.mark.thorough
def test_when_process_0_is_killed_the_others_name_it(data_dir: Path, tmp_path: Path) -> None:
    """It coordinates the run, and JAX aborts the others before they have said anything."""
    first, second = start_together(tmp_path, data_dir, processes=2, devices=2)
    wait_for(lambda: bool(checkpoint_steps(tmp_path)), first, second)
    first.kill()
    _, (status, output) = finish(first, second, timeout=60)
    assert status == 1, output
    lost = f"error: process 0 on {socket.gethostname()}, which coordinates the run, is lost: "
    advice = "start all processes again to go on from the last checkpoint"
    assert output.splitlines()[-1] == f"{lost}it has closed the connection; {advice}"
