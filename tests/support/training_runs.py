"""Starts `train.py` in separate processes, one or several together, ends them, and reads the results of a run."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from seemore_jax.data import write_image
from seemore_jax.data.preparation import prepare
from seemore_jax.training.records import read_history

ROOT = Path(__file__).parents[2]
PARTS = ("parameters", "average", "optimizer", "step")  # of a checkpoint


@contextlib.contextmanager
def run_folder(cache: Path | None = None) -> Iterator[Path]:
    """Yields a temporary folder for runs, with a data set in its folder `data`.

    Args:
      cache: where the processes keep compiled programs; None keeps them in the temporary folder.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_dataset(folder / "data")
        keep_compiled(cache or folder / "cache")
        yield folder


def random_dataset(folder: Path) -> None:
    """Prepares an image_folder data set ×2 of random images in `folder`."""
    rng = np.random.default_rng(0)
    for number in range(4):
        write_image(folder / "images" / f"{number}.png", rng.integers(0, 256, (96, 80, 3), dtype=np.uint8))
    prepare("image_folder", folder, scales=(2,), sources=[folder / "images"])


class Process(subprocess.Popen[bytes]):
    """Runs a command in the root of the project; its output can be read while it runs.

    The command writes to a file without a name, because a full pipe that nobody reads would block it.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (closed by the finalizer)
        weakref.finalize(self, self._printed.close)
        super().__init__(command, cwd=ROOT, env=environment, stdout=self._printed, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        """Returns what the command has written so far."""
        descriptor = self._printed.fileno()  # Reading at a position does not move the one at which the command writes.
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
    # Unoptimized machine code compiles in half the time, and compilation is most of the time of such a small run.
    flags = os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=0")
    # One process with several devices stands for one host with several accelerators.
    environment = {**os.environ, "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}
    return Process([sys.executable, *arguments], environment)


def start_together(workdir: Path, data_dir: Path, *fields: str, processes: int, devices: int) -> list[Process]:
    """Starts all processes of a run on 127.0.0.1, with `devices` virtual devices each."""
    coordinator = free_address()
    return [
        start(workdir, data_dir, *fields, devices=devices, process=(coordinator, processes, index))
        for index in range(processes)
    ]


def run_together(command: Sequence[str], *, processes: int, devices: int) -> list[tuple[int, str]]:
    """Runs a command as that many processes of one run, with `devices` virtual devices each.

    Returns the exit status and the output of each process.
    """
    joined = [f"--coordinator={free_address()}", f"--num_processes={processes}"] if processes > 1 else []
    # Unoptimized machine code compiles faster, as in `start`.
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    running = [
        Process([*command, *joined, *([f"--process_id={index}"] if joined else [])], {**os.environ, "XLA_FLAGS": flags})
        for index in range(processes)
    ]
    return finish(*running)


def free_address() -> str:
    """Returns HOST:PORT where a coordinator can listen."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Pod:
    """Holds the processes of one run, one for each folder of data, and kills those that are left when it is closed."""

    def __init__(self, workdir: Path, data_dirs: Sequence[Path], *fields: str) -> None:
        coordinator, count = free_address(), len(data_dirs)
        self.workdir = workdir
        self.processes = [
            start(workdir, data_dir, *fields, process=(coordinator, count, index))
            for index, data_dir in enumerate(data_dirs)
        ]

    def __enter__(self) -> "Pod":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills all processes that still run."""
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_until_step(self, step: int, timeout: float) -> None:
        """Waits until that step is on record and a checkpoint is finished."""
        wait_for(
            lambda: last_step(self.workdir) >= step and bool(checkpoint_steps(self.workdir)),
            *self.processes,
            timeout=timeout,
        )

    def wait(self, timeout: float, *, besides: Sequence[int] = ()) -> float:
        """Waits for the processes, except those numbered in `besides`, to end; returns the seconds that it waited."""
        begin = time.monotonic()
        waited_for = [process for index, process in enumerate(self.processes) if index not in besides]
        while any(process.poll() is None for process in waited_for) and time.monotonic() - begin < timeout:
            time.sleep(0.1)
        return time.monotonic() - begin

    def wait_for_first(self, timeout: float) -> None:
        """Waits for any process to end."""
        begin = time.monotonic()
        while all(process.poll() is None for process in self.processes) and time.monotonic() - begin < timeout:
            time.sleep(0.1)

    @property
    def statuses(self) -> list[int]:
        """Returns the exit statuses of the processes, which have ended; a negative number is a signal."""
        return [process.returncode for process in self.processes]

    def outputs(self, *, besides: Sequence[int] = ()) -> list[str]:
        """Returns what each process wrote, except those numbered in `besides`."""
        return [process.output for index, process in enumerate(self.processes) if index not in besides]

    @property
    def output(self) -> str:
        """Returns what all processes wrote."""
        return "".join(self.outputs())


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
    """Ends this process with the output of the first one that ended with another status."""
    for status, output in ended:
        if status not in statuses:
            sys.exit(f"a process ended with status {status}, not {' or '.join(map(str, statuses))}:\n{output}")


def keep_compiled(folder: Path) -> None:
    """Lets the next processes keep compiled programs in a folder."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def wait_for(condition: Callable[[], bool], *running: Process, timeout: float = 300) -> None:
    """Returns as soon as the condition holds; fails, and ends the processes, if one of them ends before."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline or any(process.poll() is not None for process in running):
            for process in running:
                process.kill()
            raise AssertionError("\n".join(process.output for process in running))
        time.sleep(0.005)


def losses(workdir: Path) -> dict[int, float]:
    """Returns the loss of each step on record."""
    entries = read_history(workdir / "history.jsonl")
    return {int(entry["step"]): entry["loss/total"] for entry in entries if "loss/total" in entry}


def last_step(workdir: Path) -> int:
    """Returns the last step on record, or 0."""
    return max(losses(workdir), default=0)


def started_records(workdir: Path) -> int:
    """Counts how often a run has begun to write records, which it does just before it compiles the step."""
    return len(list((workdir / "tensorboard").glob("*")))


def checkpoint_steps(workdir: Path) -> list[int]:
    """Returns the steps of the finished checkpoints."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()) if folder.exists() else []


def damage(checkpoints: Path, step: int) -> None:
    """Cuts off the files of one checkpoint."""
    for file in (checkpoints / str(step) / "default").rglob("*"):
        if file.is_file() and file.name != "_METADATA":
            file.write_bytes(file.read_bytes()[:10])


def newest_state(workdir: Path) -> dict[str, np.ndarray]:
    """Returns every array of the newest checkpoint by its path: parameters, average, optimizer and step."""
    step = checkpoint_steps(workdir)[-1]
    restored = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / "default").absolute())
    return dict(_leaves(restored, ""))


def identical_parts(workdir: Path, expected: Path) -> dict[str, bool]:
    """Returns for each part of two finished runs whether it is the same in both, bit for bit."""
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
