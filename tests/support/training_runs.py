"""Starts `train.py` in one or several processes, and reads its outputs."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from seemore_jax.data import write_image
from seemore_jax.data.preparation import prepare
from seemore_jax.training.records import read_history

ROOT = Path(__file__).parents[2]
PARTS = ("parameters", "average", "optimizer", "step")  # parts of a checkpoint


def random_dataset(folder: Path) -> None:
    """Prepares a ×2 image_folder with random images in `folder`."""
    rng = np.random.default_rng(0)
    for number in range(4):
        write_image(folder / "images" / f"{number}.png", rng.integers(0, 256, (96, 80, 3), dtype=np.uint8))
    prepare("image_folder", folder, scales=(2,), sources=[folder / "images"])


class Process(subprocess.Popen[bytes]):
    """Command in the root of the project, whose output can be read while it runs.

    It writes to a temporary file, because it would block on a full pipe that nobody reads.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (closed by the finalizer)
        weakref.finalize(self, self._printed.close)
        super().__init__(command, cwd=ROOT, env=environment, stdout=self._printed, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        """Output so far."""
        descriptor = self._printed.fileno()  # pread does not change the position at which the process writes
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def start(
    workdir: Path, data_dir: Path, *fields: str, devices: int = 1, process: tuple[str, int, int] | None = None
) -> Process:
    """Starts one process of a run; `process` is (coordinator, number of processes, index)."""
    arguments = [
        "train.py",
        "--config=tests/support/tiny_config.py",
        f"--workdir={workdir}",
        f"--config.data_dir={data_dir}",
        *(f"--config.{field}" for field in fields),
    ]
    if process:
        coordinator, count, index = process
        arguments += [f"--coordinator={coordinator}", f"--num_processes={count}", f"--process_id={index}"]
    # Machine code without optimization compiles in half the time; a small run spends most of its time on compilation.
    flags = os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=0")
    # One process with several devices replaces one host with several accelerators.
    environment = {**os.environ, "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}
    return Process([sys.executable, *arguments], environment)


def start_together(workdir: Path, data_dir: Path, *fields: str, processes: int, devices: int) -> list[Process]:
    """Starts all processes of a run on 127.0.0.1, with `devices` virtual devices each."""
    coordinator = free_address()
    return [
        start(workdir, data_dir, *fields, devices=devices, process=(coordinator, processes, index))
        for index in range(processes)
    ]


def free_address() -> str:
    """Returns HOST:PORT on which a coordinator can listen."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def finish(*running: Process, timeout: float = 300) -> list[tuple[int, str]]:
    """Waits for processes; returns their exit statuses and outputs."""
    ended = []
    try:
        for process in running:
            ended.append((process.wait(timeout), process.output))
    finally:
        for process in running:
            process.kill()
    return ended


def expect(ended: Sequence[tuple[int, str]], *statuses: int) -> None:
    """Exits with the output of the first process whose exit status is not among those expected."""
    for status, output in ended:
        if status not in statuses:
            sys.exit(f"a process ended with status {status}, not {' or '.join(map(str, statuses))}:\n{output}")


def keep_compiled(folder: Path) -> None:
    """Sets the compilation cache of the processes that are started later."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def wait_for(condition: Callable[[], bool], *running: Process, timeout: float = 300) -> None:
    """Waits until a condition holds; fails and kills the processes if one of them ends before or time runs out."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline or any(process.poll() is not None for process in running):
            for process in running:
                process.kill()
            raise AssertionError("\n".join(process.output for process in running))
        time.sleep(0.005)


def losses(workdir: Path) -> dict[int, float]:
    """Returns the recorded loss of each step."""
    entries = read_history(workdir / "history.jsonl")
    return {int(entry["step"]): entry["loss/total"] for entry in entries if "loss/total" in entry}


def started_records(workdir: Path) -> int:
    """Returns how often a run has begun to write records; it does so just before it compiles its step."""
    return len(list((workdir / "tensorboard").glob("*")))


def checkpoint_steps(workdir: Path) -> list[int]:
    """Returns the steps of the finished checkpoints."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()) if folder.exists() else []


def damage(checkpoints: Path, step: int) -> None:
    """Truncates the files of one checkpoint."""
    for file in (checkpoints / str(step) / "default").rglob("*"):
        if file.is_file() and file.name != "_METADATA":
            file.write_bytes(file.read_bytes()[:10])


def newest_state(workdir: Path) -> dict[str, np.ndarray]:
    """Returns every array of the newest checkpoint: parameters, average, optimizer and step."""
    step = checkpoint_steps(workdir)[-1]
    restored = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / "default").absolute())
    return dict(_leaves(restored, ""))


def identical_parts(workdir: Path, expected: Path) -> dict[str, bool]:
    """Returns which parts of two finished runs are identical, bit for bit."""
    mine, theirs = newest_state(workdir), newest_state(expected)
    identical = {"loss of each step": bool(losses(expected)) and losses(workdir) == losses(expected)}
    for part in PARTS:
        names = {name for name in mine.keys() | theirs.keys() if name.split("/")[1] == part}
        identical[part] = bool(names) and all(
            name in mine and name in theirs and mine[name].tobytes() == theirs[name].tobytes() for name in names
        )
    files = [folder / "weights" / "final.safetensors" for folder in (workdir, expected)]
    return identical | {"final.safetensors": files[0].read_bytes() == files[1].read_bytes()}


def _leaves(tree: object, path: str) -> list[tuple[str, np.ndarray]]:
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{path}/{key}")]
    if isinstance(tree, list | tuple):
        return [leaf for index, value in enumerate(tree) for leaf in _leaves(value, f"{path}/{index}")]
    return [] if tree is None else [(path, np.asarray(tree))]
