"""Starting `train.py` in processes of its own, alone or several together, and reading what it left."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[2]


def start(
    workdir: Path, data_dir: Path, *fields: str, devices: int = 1, process: tuple[str, int, int] | None = None
) -> subprocess.Popen[str]:
    """Starts one process of a run; `process` is (coordinator, number of processes, index)."""
    arguments = [
        "train.py",
        "--config=tests/training/tiny_config.py",
        f"--workdir={workdir}",
        f"--config.data_dir={data_dir}",
        *(f"--config.{field}" for field in fields),
    ]
    if process:
        coordinator, count, index = process
        arguments += [f"--coordinator={coordinator}", f"--num_processes={count}", f"--process_id={index}"]
    # One process with several devices stands for one host with several accelerators.
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_together(
    workdir: Path, data_dir: Path, *fields: str, processes: int, devices: int
) -> list[subprocess.Popen[str]]:
    """Starts all processes of a run on 127.0.0.1, with `devices` virtual devices each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    return [
        start(workdir, data_dir, *fields, devices=devices, process=(coordinator, processes, index))
        for index in range(processes)
    ]


def finish(*running: subprocess.Popen[str], timeout: float = 300) -> list[tuple[int, str]]:
    """Waits for processes; returns their exit statuses and outputs."""
    ended = []
    try:
        for process in running:
            output, _ = process.communicate(timeout=timeout)
            ended.append((process.returncode, output))
    finally:
        for process in running:
            process.kill()
    return ended


def losses(workdir: Path) -> dict[int, float]:
    """The loss of each step."""
    entries = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    return {entry["step"]: entry["loss/total"] for entry in entries if "loss/total" in entry}


def checkpoint_steps(workdir: Path) -> list[int]:
    """The steps of the finished checkpoints."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()) if folder.exists() else []


def newest_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint: parameters, average, optimizer, step and key."""
    step = checkpoint_steps(workdir)[-1]
    restored = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / "default").absolute())
    return dict(_leaves(restored, ""))


def _leaves(tree: object, path: str) -> list[tuple[str, np.ndarray]]:
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{path}/{key}")]
    if isinstance(tree, list | tuple):
        return [leaf for index, value in enumerate(tree) for leaf in _leaves(value, f"{path}/{index}")]
    return [] if tree is None else [(path, np.asarray(tree))]
