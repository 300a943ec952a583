"""Runs that are killed, stopped, and moved between numbers of processes and devices: do they end the same?

    python -m benchmarks.interruptions --output=FILE.json

Starts `train.py` as a user does, on a small network and random images. Exits with status 1 if anything differs.
"""

import argparse
import dataclasses
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing
from tests.support.training_runs import (
    Process,
    checkpoint_steps,
    expect,
    finish,
    identical_parts,
    keep_compiled,
    losses,
    random_dataset,
    start,
    start_together,
    started_records,
    wait_for,
)

STEPS = 100
FIELDS = (f"num_steps={STEPS}", "checkpoint_every=10")
# Where a run is interrupted: while Python starts, while the step is compiled, or at a random step between two.
# The first checkpoint is that of step 10.
MOMENTS: tuple[str | tuple[int, int], ...] = (
    "starting",
    "compiling",
    (3, 8),
    "compiling",
    (11, 25),
    (26, 40),
    "starting",
    (41, 60),
    (61, 80),
    (81, 92),
)
LAYOUTS = ((1, 8), (2, 4), (4, 2))  # processes × devices of each
MOVES = ((2, 4, 35), (1, 8, 70), (4, 2, STEPS))  # processes, devices, and the step after which this part is stopped
LOSS_BOUND = 1e-5  # relative
PATIENCE = 1800  # seconds for a run: other work on the machine is no failure


@dataclasses.dataclass(frozen=True)
class Interruption:
    """One signal, and how far the run was when it came.

    Attributes:
      moment: what the signal waited for.
      last_step: the last step on record.
      checkpoint: the newest finished checkpoint; None before the first.
      writing: whether a checkpoint was half-written.
      status: of the process.
    """

    moment: str
    last_step: int
    checkpoint: int | None
    writing: bool
    status: int


def main() -> None:
    options = _options()
    os.environ["XLA_FLAGS"] = ""  # runs of users, not the unoptimized ones of the tests
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data_dir = folder / "data"
        random_dataset(data_dir)
        whole = folder / "whole"
        keep_compiled(folder / "cache")
        _say("in one go")
        expect(_finish(start(whole, data_dir, *FIELDS)), 0)
        interrupted = {
            which.name: _interrupted(which, folder / which.name, data_dir, random.Random(f"{options.seed} {which}"))
            for which in (signal.SIGKILL, signal.SIGTERM)
        }
        compared = {name: identical_parts(folder / name, whole) for name in interrupted}
        keep_compiled(folder / "cache")
        curves = {"1 × 1": losses(whole)}
        for processes, devices in LAYOUTS:
            curves[f"{processes} × {devices}"] = losses(_together(folder, data_dir, processes, devices))
        curves["moved"] = losses(_moved(folder / "moved", data_dir))
    result = {
        "interruptions": {name: [dataclasses.asdict(hit) for hit in hits] for name, hits in interrupted.items()},
        "identical": compared,
        "relative_loss_difference": _relative_differences(curves),
        "losses": {name: list(curve.values()) for name, curve in curves.items()},
        "steps": STEPS,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - begin),
    }
    print(_markdown(result))
    timing.write(options.output, result)
    failures = _failures(result)
    if failures:
        sys.exit("\n".join(failures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Interrupts runs of train.py, and compares how they end.")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the measurements here, as JSON")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _finish(*running: Process) -> list[tuple[int, str]]:
    return finish(*running, timeout=PATIENCE)


def _interrupted(which: signal.Signals, workdir: Path, data_dir: Path, rng: random.Random) -> list[Interruption]:
    """A run that gets the signal at each of `MOMENTS`, is started again each time, and at last ends."""
    keep_compiled(workdir.with_name(f"{which.name}-cache"))  # empty, so that there is something to compile
    hits = []
    for moment in MOMENTS:
        process = start(workdir, data_dir, *FIELDS)
        name = _wait(moment, workdir, process, rng)
        process.send_signal(which)
        ended = _finish(process)
        # Before train.py listens, SIGTERM does what it always does.
        expect(ended, *((-which,) if which == signal.SIGKILL or moment == "starting" else (128 + which,)))
        checkpoints = checkpoint_steps(workdir)
        half_written = bool(list((workdir / "checkpoints").glob("*tmp*")))
        recorded = max(losses(workdir), default=0)
        hits.append(Interruption(name, recorded, max(checkpoints, default=None), half_written, ended[0][0]))
        _say(f"{which.name} {hits[-1]}")
    expect(_finish(start(workdir, data_dir, *FIELDS)), 0)
    return hits


def _wait(moment: str | tuple[int, int], workdir: Path, process: Process, rng: random.Random) -> str:
    """Waits until a run that has just been started is at a random instant of that moment; returns its name."""
    if moment == "starting":
        time.sleep(rng.uniform(0.2, 2))
        return moment
    before = started_records(workdir)
    wait_for(lambda: started_records(workdir) > before, process, timeout=PATIENCE)
    if isinstance(moment, str):
        time.sleep(rng.uniform(0.1, 1))
        return moment
    # An earlier signal may have come late enough for the run to go on from beyond the step that was drawn.
    step = max(rng.randint(*moment), max(losses(workdir), default=0) + 1)
    wait_for(_reached(workdir, step), process, timeout=PATIENCE)
    time.sleep(rng.uniform(0, 0.1))
    return f"step {step}"


def _reached(workdir: Path, step: int) -> Callable[[], bool]:
    return lambda: max(losses(workdir), default=0) >= step


def _start(workdir: Path, data_dir: Path, processes: int, devices: int) -> list[Process]:
    if processes == 1:
        return [start(workdir, data_dir, *FIELDS, devices=devices)]
    return start_together(workdir, data_dir, *FIELDS, processes=processes, devices=devices)


def _together(folder: Path, data_dir: Path, processes: int, devices: int) -> Path:
    _say(f"{processes} × {devices}")
    workdir = folder / f"{processes}x{devices}"
    expect(_finish(*_start(workdir, data_dir, processes, devices)), 0)
    return workdir


def _moved(workdir: Path, data_dir: Path) -> Path:
    """A run that is stopped twice, and goes on with other numbers of processes and devices."""
    for processes, devices, stop_after in MOVES:
        _say(f"on {processes} × {devices} up to about step {stop_after}")
        running = _start(workdir, data_dir, processes, devices)
        if stop_after < STEPS:
            wait_for(_reached(workdir, stop_after), *running, timeout=PATIENCE)
            running[-1].terminate()  # one process of them; all have to stop
        expect(_finish(*running), 143 if stop_after < STEPS else 0)
    return workdir


def _relative_differences(curves: dict[str, dict[int, float]]) -> dict[str, float]:
    """The largest relative difference of a loss, for each two runs; infinite if they have not the same steps."""
    differences = {}
    for (one, first), (other, second) in itertools.combinations(curves.items(), 2):
        same_steps = list(first) == list(second) == list(range(1, STEPS + 1))
        a, b = (np.array(list(curve.values())) for curve in (first, second))
        differences[f"{one} and {other}"] = float(np.max(np.abs(a - b) / np.abs(b))) if same_steps else float("inf")
    return differences


def _markdown(result: dict[str, Any]) -> str:
    heads = [f"{len(hits)} × {name}" for name, hits in result["interruptions"].items()]
    lines = [
        f"| after {STEPS} steps | {' | '.join(heads)} |",
        f"|---|{'---|' * len(result['identical'])}",
    ]
    for part in next(iter(result["identical"].values())):
        same = ["identical" if parts[part] else "DIFFERENT" for parts in result["identical"].values()]
        lines.append(f"| {part} | {' | '.join(same)} |")
    lines += [
        "",
        "| signal | at | last step on record | newest checkpoint | one half-written | status |",
        "|---|---|---:|---:|---|---:|",
    ]
    for name, hits in result["interruptions"].items():
        for hit in hits:
            writing = "yes" if hit["writing"] else ""
            checkpoint = hit["checkpoint"] or "none"
            last = hit["last_step"] or "none"
            lines.append(f"| {name} | {hit['moment']} | {last} | {checkpoint} | {writing} | {hit['status']} |")
    lines += ["", "| processes × devices | largest relative difference of a loss |", "|---|---:|"]
    for pair, difference in result["relative_loss_difference"].items():
        lines.append(f"| {pair} | {difference:.1e} |")
    lines += ["", timing.footer(result["seconds"])]
    return "\n".join(lines)


def _failures(result: dict[str, Any]) -> list[str]:
    failures = [
        f"{name}: {part} differs from the run in one go"
        for name, parts in result["identical"].items()
        for part, same in parts.items()
        if not same
    ]
    return failures + [
        f"{pair}: the losses differ by {difference:.1e}, more than {LOSS_BOUND:.0e}"
        for pair, difference in result["relative_loss_difference"].items()
        if not difference <= LOSS_BOUND
    ]


if __name__ == "__main__":
    main()
