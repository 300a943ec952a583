"""Compiles the training step of every published network for TPUs and GPUs, and prints a table of what it needs.

    python -m benchmarks.compiled_networks                                  # all that has not run; may be interrupted
    python -m benchmarks.compiled_networks --networks T-x4 --types bfloat16 --chips v5e h100
    python -m benchmarks.compiled_networks --table                          # only prints what has run

Each combination is one call of `python -m seemore_jax compile` in a process of its own. Its result is kept in the
folder --results, so that the next call goes on where this one ended. A combination that was refused is tried again.
Nothing here is measured on a TPU or a GPU. TPUs need libtpu, GPUs need JAX's CUDA plugin; two environments with one
of them each can share the folder.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import records, tables
from benchmarks.harness.networks import MODELS
from seemore_jax.system.files import atomic_write

# A host of v5e chips, the smallest slice of several chips of each other kind of TPU, and one GPU of each kind.
LAYOUTS = {
    "v4": "2x2x1",
    "v5e": "2x4",
    "v5p": "2x2x1",
    "v6e": "2x2",
    "tpu7x": "2x2x1",
    "h100": "1",
    "a100": "1",
    "rtx4090": "1",
}
PRECISIONS = {"bfloat16": "default", "float32": "highest"}


@dataclasses.dataclass(frozen=True)
class Combination:
    """Names one program: a network such as T-x4, its type, a kind of TPU or GPU, and the patches on each device."""

    network: str
    dtype: str
    chip: str
    patch: int
    batch: int

    @property
    def file(self) -> str:
        """Returns the name of the file of the result."""
        return f"{self.network}_{self.dtype}_{self.chip}_{self.batch}x{self.patch}.json"

    @property
    def command(self) -> list[str]:
        """Returns the arguments of `python -m seemore_jax`, without the file of the result."""
        variant, scale = self.network.lower().split("-")
        return [
            "compile",
            f"--config=configs/seemore_{variant}_{scale}.py",
            f"--topology={self.chip}:{LAYOUTS[self.chip]}",
            f"--batch_per_chip={self.batch}",
            f"--config.patch_size={self.patch}",
            f"--config.compute_dtype={self.dtype}",
            f"--config.precision={PRECISIONS[self.dtype]}",
        ]


def main() -> None:
    chosen = _options()
    combinations = list(_combinations(chosen))
    if not chosen.table:
        for one in combinations:
            if (_read(chosen.results, one) or {}).get("error", "not run"):
                records.progress(f"{one.file}: {_line(_run(chosen.results, one))}")
    print(table(combinations, [_read(chosen.results, one) for one in combinations]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--networks", nargs="+", choices=MODELS, default=MODELS, metavar="T-x4", help="(default: all nine)")
    add("--types", nargs="+", choices=tuple(PRECISIONS), default=tuple(PRECISIONS), help="(default: both)")
    add("--chips", nargs="+", choices=tuple(LAYOUTS), default=tuple(LAYOUTS), help="(default: all)")
    add("--patch", type=int, default=64, help="side of a patch in LR pixels (default: %(default)s)")
    add("--batch", type=int, default=32, help="patches on each device (default: %(default)s)")
    results = Path("build/compiled_networks")
    add("--results", type=Path, default=results, metavar="FOLDER", help="(default: %(default)s)")
    add("--table", action="store_true", help="compile nothing, print what has run")
    return parser.parse_args()


def _combinations(chosen: argparse.Namespace) -> Iterator[Combination]:
    for dtype in chosen.types:
        for network in chosen.networks:
            for chip in chosen.chips:
                yield Combination(network, dtype, chip, chosen.patch, chosen.batch)


def _read(folder: Path, combination: Combination) -> dict[str, Any] | None:
    """Returns the result of a combination: a report or an error; None if it has not run."""
    try:
        return json.loads((folder / combination.file).read_text())
    except FileNotFoundError:
        return None


def _run(folder: Path, combination: Combination) -> dict[str, Any]:
    """Compiles a combination and keeps the result."""
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / f"{combination.file}.report"
    command = [sys.executable, "-m", "seemore_jax", *combination.command, f"--json={report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        result = {"error": (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]}
    else:
        result = {"error": "", **json.loads(report.read_text())[0]}
        report.unlink()
    with atomic_write(folder / combination.file) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    return result


def table(combinations: Sequence[Combination], results: Sequence[dict[str, Any] | None]) -> str:
    """Returns a Markdown table with one row for each network and type, and one column for each kind of TPU or GPU.

    Args:
      combinations: what was to be compiled.
      results: the report of each combination, or its error, or None if it has not run.

    Returns:
      The table, the errors, and how many combinations have run.
    """
    chips = list(dict.fromkeys(one.chip for one in combinations))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one, result in zip(combinations, results, strict=True):
        rows.setdefault((one.network, one.dtype), {})[one.chip] = _line(result)
    lines = [tables.compact(["network", "type", *chips], [[*key, *row.values()] for key, row in rows.items()])]
    errors = [
        f"{one.file.removesuffix('.json')}: {result['error']}"
        for one, result in zip(combinations, results, strict=True)
        if result and result["error"]
    ]
    count = sum(result is not None for result in results)
    return "\n".join([*lines, "", *errors, f"{count} of {len(combinations)} combinations have run."])


def _line(result: dict[str, Any] | None) -> str:
    """Returns a result in one cell: whether it fits, the largest batch, what limits it, and the predicted images/s.

    Where the cycles of the kernels are not known, the prediction is an upper bound.
    """
    if result is None:
        return "not run"
    if result["error"]:
        return "refused"
    roofline = result["roofline"]
    limit = max(("matrix", "cycles", "memory", "launches"), key=lambda name: roofline[name])
    rate = result["images"] / result["step_seconds"]
    fits = "fits" if result["fits"] else "too large"
    bound = "≤ " if result["kernel_cycles"] is None else ""
    return f"{fits}, {result['largest_batch']:,}, {limit}, {bound}{rate:,.0f}/s"


if __name__ == "__main__":
    main()
