"""A long run that is killed again and again: does it end as one that was not, and does its memory stay flat?

    python -m benchmarks.soak --output=FILE.json                # 2,000 steps, a kill every 100 or so
    python -m benchmarks.soak --steps=60 --kill_every=25        # to see it work

Starts `train.py` as a user does, on a small network and random images. Exits with status 1 if the results differ or
memory grows.
"""

import argparse
import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import timing
from tests.support.training_runs import (
    Process,
    expect,
    finish,
    identical_parts,
    keep_compiled,
    losses,
    random_dataset,
    start,
)

# Growth of the memory over a run in one go: between the means of its second and its last quarter. Allocators and
# tables of TensorBoard settle in the first.
GROWTH_BOUND = 0.05
_MB = 1e6


def main() -> None:
    options = _options()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_dataset(folder / "data")
        keep_compiled(options.cache or folder / "cache")
        memory = _in_one_go(folder / "whole", folder / "data", options.steps)
        kills = _killed(folder / "killed", folder / "data", options)
        result = {
            "kills_after_step": kills,
            "identical": identical_parts(folder / "killed", folder / "whole"),
            "memory": memory,
            "steps": options.steps,
            "seed": options.seed,
            "seconds": round(time.perf_counter() - begin),
        }
    print(_markdown(result))
    timing.write(options.output, result)
    if failures := _failures(result):
        sys.exit("\n".join(failures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kills a run of train.py again and again, and compares how it ends.")
    parser.add_argument("--steps", type=int, default=2000, help="of the run (default: %(default)s)")
    parser.add_argument("--kill_every", type=int, default=100, help="steps between kills, about (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="compiled programs of an earlier call")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the measurements here, as JSON")
    return parser.parse_args()


def _start(workdir: Path, data_dir: Path, steps: int) -> Process:
    return start(workdir, data_dir, f"num_steps={steps}", "checkpoint_every=10", f"validate_every={10 * steps}")


def _in_one_go(workdir: Path, data_dir: Path, steps: int) -> list[tuple[int, float]]:
    """The run that is not killed; returns its resident memory in MB at steps of it."""
    process = _start(workdir, data_dir, steps)
    seen = psutil.Process(process.pid)
    samples: list[tuple[int, float]] = []
    while process.poll() is None:
        step = max(losses(workdir), default=0)
        if step > (samples[-1][0] if samples else 0):
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end between two looks at it
                samples.append((step, seen.memory_info().rss / _MB))
        time.sleep(0.1 if steps < 500 else 1)
    expect(finish(process), 0)
    return samples


def _killed(workdir: Path, data_dir: Path, options: argparse.Namespace) -> list[int]:
    """The run that is killed at random steps, and started again each time; returns the steps."""
    rng = random.Random(options.seed)
    kills: list[int] = []
    target = rng.randint(options.kill_every // 2, options.kill_every * 3 // 2)
    while True:
        process = _start(workdir, data_dir, options.steps)
        while process.poll() is None and max(losses(workdir), default=0) < target:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        ended = finish(process)
        if ended[0][0] == 0:
            return kills
        expect(ended, -9)
        kills.append(max(losses(workdir), default=0))
        print(f"killed after step {kills[-1]}", file=sys.stderr, flush=True)
        # The next one lies beyond the next checkpoint, so that every start gets further.
        target = kills[-1] + 11 + rng.randint(options.kill_every // 2, options.kill_every * 3 // 2)


def _growth(memory: list[tuple[int, float]]) -> float:
    """By how much of itself the memory grew between the second and the last quarter of the samples."""
    quarters = np.array_split(np.array([megabytes for _, megabytes in memory]), 4)
    return float(quarters[3].mean() / quarters[1].mean() - 1) if len(memory) >= 4 else 0.0


def _markdown(result: dict[str, Any]) -> str:
    lines = [f"| after {result['steps']} steps and {len(result['kills_after_step'])} kills | |", "|---|---|"]
    lines += [f"| {part} | {'identical' if same else 'DIFFERENT'} |" for part, same in result["identical"].items()]
    memory = result["memory"]
    if memory:
        lines.append(f"| memory, MB | {memory[0][1]:.0f} at step {memory[0][0]}, {memory[-1][1]:.0f} at the end |")
        lines.append(f"| its growth from the second to the last quarter | {100 * _growth(memory):+.1f} % |")
    lines += ["", f"Killed after steps {', '.join(map(str, result['kills_after_step'])) or 'none'}."]
    lines += [timing.footer(result["seconds"])]
    return "\n".join(lines)


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
