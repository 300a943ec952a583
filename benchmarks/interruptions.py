"""Checks that runs end the same if they are killed, stopped, or moved to other numbers of processes and devices.

    python -m benchmarks.interruptions --output=FILE.json

Starts `train.py` as a user does, on a small network and random images. Exits with status 1 if anything differs.
"""

import argparse
import dataclasses
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import options, records, tables
from tests.support.training_runs import (
    Process,
    checkpoint_steps,
    expect,
    finish,
    identical_parts,
    keep_compiled,
    last_step,
    losses,
    run_folder,
    start,
    start_together,
    started_records,
    wait_for,
)

STEPS = 100
FIELDS = (f"num_steps={STEPS}", "checkpoint_every=10")
# When a run is interrupted: while Python starts, while the step is compiled, or at a random step between two numbers.
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
LAYOUTS = ((1, 8), (2, 4), (4, 2))  # processes, and devices of each process
MOVES = ((2, 4, 35), (1, 8, 70), (4, 2, STEPS))  # processes, devices, and the step after which this part is stopped
LOSS_BOUND = 1e-5  # relative difference
PATIENCE = 1800  # seconds for a run: a run on a busy machine may be slow


@dataclasses.dataclass(frozen=True)
class Interruption:
    """Describes one signal, and the progress of the run when it came.

    Attributes:
      moment: the moment of the signal: "starting", "compiling" or a step.
      last_step: the last step on record.
      checkpoint: the newest finished checkpoint; None before the first one.
      writing: whether a checkpoint was half-written.
      status: the exit status of the process.
    """

    moment: str
    last_step: int
    checkpoint: int | None
    writing: bool
    status: int


def main() -> None:
    chosen = _options()
    os.environ["XLA_FLAGS"] = ""  # Programs are optimized as in the runs of users; those of the tests are not.
    begin = time.perf_counter()
    with run_folder() as folder:
        whole = _together(folder, "whole", 1, 1)
        interrupted = {
            which.name: _interrupted(which, folder, random.Random(f"{chosen.seed} {which}"))
            for which in (signal.SIGKILL, signal.SIGTERM)
        }
        compared = {name: identical_parts(folder / name, whole) for name in interrupted}
        keep_compiled(folder / "cache")
        curves = {"1 × 1": losses(whole)}
        for processes, devices in LAYOUTS:
            workdir = _together(folder, f"{processes}x{devices}", processes, devices)
            curves[f"{processes} × {devices}"] = losses(workdir)
        curves["moved"] = losses(_moved(folder))
    result = {
        "interruptions": {name: [dataclasses.asdict(hit) for hit in hits] for name, hits in interrupted.items()},
        "identical": compared,
        "relative_loss_difference": _relative_differences(curves),
        "losses": {name: list(curve.values()) for name, curve in curves.items()},
        "steps": STEPS,
        "seed": chosen.seed,
        "seconds": round(time.perf_counter() - begin),
    }
    print(_report(result))
    records.finish(chosen.output, result, _failures(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Interrupts runs of train.py, and compares how they end.")
    options.add_seed(parser, determines="the moments of the interruptions")
    options.add_output(parser)
    return parser.parse_args()


def _finish(*running: Process) -> list[tuple[int, str]]:
    return finish(*running, timeout=PATIENCE)


def _interrupted(which: signal.Signals, folder: Path, rng: random.Random) -> list[Interruption]:
    """Sends a run the signal at each of `MOMENTS`, starts it again each time, and at last lets it end."""
    workdir, data_dir = folder / which.name, folder / "data"
    keep_compiled(folder / f"{which.name}-cache")  # The cache is empty, so that programs have to be compiled.
    hits = []
    for moment in MOMENTS:
        process = start(workdir, data_dir, *FIELDS)
        name = _wait(moment, workdir, process, rng)
        process.send_signal(which)
        ended = _finish(process)
        # Until train.py handles SIGTERM, the signal ends the process at once.
        expect(ended, *((-which,) if which == signal.SIGKILL or moment == "starting" else (128 + which,)))
        checkpoints = checkpoint_steps(workdir)
        half_written = bool(list((workdir / "checkpoints").glob("*tmp*")))
        newest = max(checkpoints, default=None)
        hits.append(Interruption(name, last_step(workdir), newest, half_written, ended[0][0]))
        records.progress(f"{which.name} {hits[-1]}")
    expect(_finish(start(workdir, data_dir, *FIELDS)), 0)
    return hits


def _wait(moment: str | tuple[int, int], workdir: Path, process: Process, rng: random.Random) -> str:
    """Waits for a random instant of the moment in a run that was just started; returns the name of the moment."""
    if moment == "starting":
        time.sleep(rng.uniform(0.2, 2))
        return moment
    before = started_records(workdir)
    wait_for(lambda: started_records(workdir) > before, process, timeout=PATIENCE)
    if isinstance(moment, str):
        time.sleep(rng.uniform(0.1, 1))
        return moment
    # After a late signal, the run may go on from a step beyond the one that is drawn.
    step = max(rng.randint(*moment), last_step(workdir) + 1)
    wait_for(_reached(workdir, step), process, timeout=PATIENCE)
    time.sleep(rng.uniform(0, 0.1))
    return f"step {step}"


def _reached(workdir: Path, step: int) -> Callable[[], bool]:
    return lambda: last_step(workdir) >= step


def _start(workdir: Path, data_dir: Path, processes: int, devices: int) -> list[Process]:
    if processes == 1:
        return [start(workdir, data_dir, *FIELDS, devices=devices)]
    return start_together(workdir, data_dir, *FIELDS, processes=processes, devices=devices)


def _together(folder: Path, name: str, processes: int, devices: int) -> Path:
    """Runs from start to end without an interruption; returns the workdir."""
    records.progress("in one go" if name == "whole" else f"{processes} × {devices}")
    expect(_finish(*_start(folder / name, folder / "data", processes, devices)), 0)
    return folder / name


def _moved(folder: Path) -> Path:
    """Stops a run twice, and continues it with other numbers of processes and devices; returns the workdir."""
    workdir = folder / "moved"
    for processes, devices, stop_after in MOVES:
        records.progress(f"on {processes} × {devices} up to about step {stop_after}")
        running = _start(workdir, folder / "data", processes, devices)
        if stop_after < STEPS:
            wait_for(_reached(workdir, stop_after), *running, timeout=PATIENCE)
            running[-1].terminate()  # The signal goes to one process; all of them have to stop.
        expect(_finish(*running), 143 if stop_after < STEPS else 0)
    return workdir


def _relative_differences(curves: dict[str, dict[int, float]]) -> dict[str, float]:
    """Returns the largest relative difference of a loss for each two runs; infinite if their steps differ."""
    differences = {}
    for (one, first), (other, second) in itertools.combinations(curves.items(), 2):
        same_steps = list(first) == list(second) == list(range(1, STEPS + 1))
        a, b = (np.array(list(curve.values())) for curve in (first, second))
        differences[f"{one} and {other}"] = float(np.max(np.abs(a - b) / np.abs(b))) if same_steps else float("inf")
    return differences


def _report(result: dict[str, Any]) -> str:
    parts = [_identical_table(result), _interruption_table(result), _difference_table(result)]
    return "\n\n".join([*parts, records.footer(result["seconds"])])


def _identical_table(result: dict[str, Any]) -> str:
    signals = [f"{len(hits)} × {name}" for name, hits in result["interruptions"].items()]
    compared = list(result["identical"].values())
    rows = [[part, *("identical" if parts[part] else "DIFFERENT" for parts in compared)] for part in compared[0]]
    return tables.compact([f"after {STEPS} steps", *signals], rows)


def _interruption_table(result: dict[str, Any]) -> str:
    rows = [
        [
            *(name, hit["moment"], str(hit["last_step"] or "none"), str(hit["checkpoint"] or "none")),
            *("yes" if hit["writing"] else "", str(hit["status"])),
        ]
        for name, hits in result["interruptions"].items()
        for hit in hits
    ]
    header = ["signal", "at", "last step on record", "newest checkpoint", "one half-written", "status"]
    return tables.compact(header, rows, "llrrlr")


def _difference_table(result: dict[str, Any]) -> str:
    rows = [[pair, f"{difference:.1e}"] for pair, difference in result["relative_loss_difference"].items()]
    return tables.compact(["processes × devices", "largest relative difference of a loss"], rows, "lr")


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
