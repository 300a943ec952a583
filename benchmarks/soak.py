"""Checks that a long run that is killed many times ends as one that was not, and that its memory does not grow.

    python -m benchmarks.soak --output=FILE.json                # 2,000 steps, a kill every 100 or so
    python -m benchmarks.soak --steps=60 --kill_every=25        # a short run

Starts `train.py` as a user does, on a small network and random images. Exits with status 1 if the results differ or
the memory grows.
"""

import argparse
import contextlib
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import options, records, tables
from tests.support.training_runs import (
    Process,
    expect,
    finish,
    identical_parts,
    last_step,
    run_folder,
    start,
)

# The accepted growth of memory in a run that is not killed, from the mean of the second quarter to that of the last.
# In the first quarter, allocators and TensorBoard's tables still grow.
GROWTH_BOUND = 0.05
_MB = 1e6


def main() -> None:
    chosen = _options()
    begin = time.perf_counter()
    with run_folder(chosen.cache) as folder:
        memory = _in_one_go(folder / "whole", folder / "data", chosen.steps)
        kills = _killed(folder / "killed", folder / "data", chosen)
        result = {
            "kills_after_step": kills,
            "identical": identical_parts(folder / "killed", folder / "whole"),
            "memory": memory,
            "steps": chosen.steps,
            "seed": chosen.seed,
            "seconds": round(time.perf_counter() - begin),
        }
    print(_report(result))
    records.finish(chosen.output, result, _failures(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kills a run of train.py many times, and compares how it ends.")
    parser.add_argument("--steps", type=int, default=2000, help="steps of the run (default: %(default)s)")
    parser.add_argument(
        "--kill_every", type=int, default=100, help="mean number of steps between kills (default: %(default)s)"
    )
    options.add_seed(parser, determines="the moments of the kills")
    options.add_cache(parser)
    options.add_output(parser)
    return parser.parse_args()


def _start(workdir: Path, data_dir: Path, steps: int) -> Process:
    return start(workdir, data_dir, f"num_steps={steps}", "checkpoint_every=10", f"validate_every={10 * steps}")


def _in_one_go(workdir: Path, data_dir: Path, steps: int) -> list[tuple[int, float]]:
    """Runs without a kill; returns the resident memory in MB at some of the steps."""
    process = _start(workdir, data_dir, steps)
    seen = psutil.Process(process.pid)
    samples: list[tuple[int, float]] = []
    while process.poll() is None:
        step = last_step(workdir)
        if step > (samples[-1][0] if samples else 0):
            with contextlib.suppress(psutil.NoSuchProcess):  # The process may have ended since it was polled.
                samples.append((step, seen.memory_info().rss / _MB))
        time.sleep(0.1 if steps < 500 else 1)
    expect(finish(process), 0)
    return samples


def _killed(workdir: Path, data_dir: Path, chosen: argparse.Namespace) -> list[int]:
    """Kills a run at random steps and starts it again each time; returns the steps."""
    rng = random.Random(chosen.seed)
    kills: list[int] = []
    target = rng.randint(chosen.kill_every // 2, chosen.kill_every * 3 // 2)
    while True:
        process = _start(workdir, data_dir, chosen.steps)
        while process.poll() is None and last_step(workdir) < target:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        ended = finish(process)
        if ended[0][0] == 0:
            return kills
        expect(ended, -9)
        kills.append(last_step(workdir))
        records.progress(f"killed after step {kills[-1]}")
        # The next kill comes after the next checkpoint, so that every start makes progress.
        target = kills[-1] + 11 + rng.randint(chosen.kill_every // 2, chosen.kill_every * 3 // 2)


def _growth(memory: list[tuple[int, float]]) -> float:
    """Returns the relative growth of the memory from the second to the last quarter of the samples."""
    quarters = np.array_split(np.array([megabytes for _, megabytes in memory]), 4)
    return float(quarters[3].mean() / quarters[1].mean() - 1) if len(memory) >= 4 else 0.0


def _report(result: dict[str, Any]) -> str:
    kills, memory = result["kills_after_step"], result["memory"]
    rows = [[part, "identical" if same else "DIFFERENT"] for part, same in result["identical"].items()]
    if memory:
        first_step, first = memory[0]
        rows.append(["memory, MB", f"{first:.0f} at step {first_step}, {memory[-1][1]:.0f} at the end"])
        rows.append(["its growth from the second to the last quarter", f"{100 * _growth(memory):+.1f} %"])
    table = tables.compact([f"after {result['steps']} steps and {len(kills)} kills", ""], rows)
    steps = f"Killed after steps {', '.join(map(str, kills)) or 'none'}."
    return f"{table}\n\n{steps}\n{records.footer(result['seconds'])}"


def _failures(result: dict[str, Any]) -> list[str]:
    failures = [f"{part}: differs from the run in one go" for part, same in result["identical"].items() if not same]
    if not result["kills_after_step"]:
        failures.append("nothing was killed")
    growth = _growth(result["memory"])
    if growth > GROWTH_BOUND:
        failures.append(f"memory grew by {100 * growth:.1f} %, more than {100 * GROWTH_BOUND:.0f} %")
    return failures


if __name__ == "__main__":
    main()
