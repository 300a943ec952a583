"""Checks that a run of several processes survives faults: lost processes, full disks, missing data and others.

    python -m benchmarks.faults --output=FILE.json [--cases killed,full_disk]

Starts `train.py` as a user does, on a small network and random images. After each fault (`benchmarks.fault_cases`) all
processes have to end within a minute with a line that says what happened, or to wait if the fault passes. When they
are started again, the run has to end with the losses of a run without a fault. Exits with status 1 otherwise.

With root's rights, the workdir of two cases is a small file system of its own. Without them, a limit on the size of
files stands for the full disk, and a workdir without the permission to write stands for the read-only one.
"""

import argparse
import dataclasses
import random
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.fault_cases import ALL_END_WITHIN, CASES, RUN_ENDS_WITHIN, STEPS, Case, Outcome, start_again, start_pod
from benchmarks.harness import options, records, tables
from tests.support.training_runs import checkpoint_steps, losses, run_folder


def main() -> None:
    chosen = _options()
    begin = time.perf_counter()
    with run_folder(chosen.cache) as folder:
        outcomes = _run(folder, [folder / "data"] * chosen.processes, chosen)
    result = {
        "outcomes": {name: dataclasses.asdict(outcome) for name, outcome in outcomes.items()},
        "failures": failures_of(outcomes),
        "processes": chosen.processes,
        "steps": STEPS,
        "seed": chosen.seed,
        "seconds": round(time.perf_counter() - begin),
    }
    print(_report(result))
    records.finish(chosen.output, result, result["failures"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Injects faults into runs of several processes.")
    parser.add_argument("--cases", default=",".join(CASES), help="faults, separated by commas (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="processes of each run (default: %(default)s)")
    options.add_seed(parser, determines="the moments of the faults")
    options.add_cache(parser)
    options.add_output(parser)
    chosen = parser.parse_args()
    chosen.cases = chosen.cases.split(",")
    if unknown := [name for name in chosen.cases if name not in CASES]:
        parser.error(f"unknown case {unknown[0]}; the known cases are {', '.join(CASES)}")
    if chosen.processes < 2:
        parser.error("--processes must be at least 2")
    return chosen


def _run(folder: Path, data_dirs: list[Path], chosen: argparse.Namespace) -> dict[str, Outcome]:
    records.progress("a run without faults")
    with start_pod(folder / "whole", data_dirs) as running:
        running.wait(RUN_ENDS_WITHIN)
    if set(running.statuses) != {0}:
        sys.exit(f"the run without faults ended with {running.statuses}\n{running.output}")
    expected = losses(folder / "whole")
    outcomes = {}
    for name in chosen.cases:
        case = Case(folder / name / "workdir", data_dirs, random.Random(f"{chosen.seed} {name}"), expected)
        case.workdir.parent.mkdir()
        outcome = CASES[name](case)
        # Some cases have started the run again themselves; the workdir of others is gone.
        if not outcome.same_losses and checkpoint_steps(case.workdir):
            outcome = start_again(case, outcome)
        outcome.said = outcome.said.replace(f"{folder}/", "")[:200]
        outcomes[name] = outcome
        records.progress(f"{name}: {outcome}")
    return outcomes


def failures_of(outcomes: dict[str, Outcome]) -> list[str]:
    """Returns a line for everything that went wrong."""
    failures = []
    for name, outcome in outcomes.items():
        waits = outcome.seconds is None
        if waits != (set(outcome.statuses) == {0}):
            failures.append(f"{name}: ended with {outcome.statuses}")
        if not outcome.said:
            failures.append(f"{name}: no line says what happened")
        if outcome.seconds is not None and outcome.seconds > ALL_END_WITHIN:
            failures.append(f"{name}: took {outcome.seconds:.0f} s to end")
        if not outcome.same_losses:
            failures.append(f"{name}: the losses differ from those of the run without a fault")
    return failures


def _report(result: dict[str, Any]) -> str:
    header = ["injected", "statuses", "all ended after", "went on from", "losses", "said"]
    table = tables.compact(header, [_cells(outcome) for outcome in result["outcomes"].values()], "llrrll")
    settings = f"{result['processes']} processes, {result['steps']} steps, a checkpoint every 3."
    return f"{table}\n\n{settings} {records.footer(result['seconds'])}"


def _cells(outcome: dict[str, Any]) -> list[str]:
    return [
        outcome["injected"],
        ", ".join(map(str, outcome["statuses"])),
        "waited for" if outcome["seconds"] is None else f"{outcome['seconds']:.0f} s",
        "–" if outcome["went_on_from"] is None else str(outcome["went_on_from"]),
        "identical" if outcome["same_losses"] else "DIFFERENT",
        outcome["said"].replace("|", "\\|") or "NOTHING",
    ]


if __name__ == "__main__":
    main()
