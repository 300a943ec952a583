"""Measures `upscale` from a camera's file to the finished PNG file, against another version, and PNG encoders.

    python -m benchmarks.files --image photo.jpg [--other FOLDER] [--model T-x4] [--shrink 1] [--output FILE.json]

FOLDER holds another version of this project, such as `git worktree add FOLDER VERSION` makes. The versions take turns,
so that other load on the machine slows both. Each run is a process of its own; its time and its largest memory are
those of the whole command. Exits with status 1 if a pixel of the two results differs by more than 1 of 255.

The second table is about the last step alone, on the same result: Pillow's encoder at some levels, and this project's.
Seconds of the processor are those of all cores together.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import options, processes, records, tables
from seemore_jax.data import png_writing
from seemore_jax.data.images import read_image
from seemore_jax.data.png_writing import write_png

ROOT = Path(__file__).parents[1]
_LEVELS = (1, 2, 4, 6)
_BOUND = 1  # of 255


def main() -> None:
    chosen = _options()
    versions = {"this": ROOT} | ({"other": chosen.other.resolve()} if chosen.other else {})
    with tempfile.TemporaryDirectory() as name:
        image = _source(chosen.image, chosen.shrink, Path(name))
        runs = _in_turns(versions, image, chosen.model, chosen.rounds, Path(name))
        results = {version: read_image(Path(name) / f"{version}.png") for version in versions}
    difference = max(_difference(results["this"], result) for result in results.values())
    encoders = _encoders(results["this"]) if chosen.encoders else {}
    print(f"{image.name}, {chosen.model}: a result of {results['this'].shape[1]}×{results['this'].shape[0]}\n")
    print(_table(runs))
    if encoders:
        rows = [
            [name, f"{wall:.2f}", f"{cpu:.2f}", f"{size / 1e6:.1f}"] for name, (wall, cpu, size) in encoders.items()
        ]
        print("\n" + tables.aligned(["PNG encoder", "seconds", "of the processor", "MB"], rows))
    seconds = sum(run["seconds"] for each in runs.values() for run in each)
    print(f"\nLargest difference: {difference} of 255. {records.footer(seconds)}")
    failures = ["the results differ"] if difference > _BOUND else []
    records.finish(chosen.output, {"runs": runs, "encoders": encoders, "largest_difference": difference}, failures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures upscale from a file to a file.")
    parser.add_argument("--image", type=Path, required=True, help="photograph, such as a camera's JPEG file")
    parser.add_argument("--other", type=Path, metavar="FOLDER", help="another version of this project")
    parser.add_argument("--shrink", type=int, default=1, help="shrink the photograph first (default: %(default)s)")
    parser.add_argument("--encoders", action="store_true", help="compare PNG encoders as well")
    options.add_weights_name(parser)
    options.add_rounds(parser, default=2)
    options.add_output(parser)
    return parser.parse_args()


def _source(path: Path, shrink: int, folder: Path) -> Path:
    """Returns the photograph, or a JPEG file of a smaller one."""
    if shrink == 1:
        return path
    with Image.open(path) as image:
        smaller = image.reduce(shrink)
    smaller.save(folder / f"{path.stem}_{smaller.width}x{smaller.height}.jpg", quality=95)
    return folder / f"{path.stem}_{smaller.width}x{smaller.height}.jpg"


def _in_turns(
    versions: Mapping[str, Path], image: Path, model: str, rounds: int, folder: Path
) -> dict[str, list[dict[str, float]]]:
    """Returns seconds, largest memory and size of the result of each run; the first round only fills the caches."""
    runs: dict[str, list[dict[str, float]]] = {version: [] for version in versions}
    for number in range(-1, rounds):
        for version, root in versions.items():
            target = folder / f"{version}.png"
            # -P: this folder must not hide the version's own package.
            command = [sys.executable, "-P", "-m", "seemore_jax", "upscale", str(image), "-o", str(target)]
            ended = processes.run([*command, "-m", model], environment={**os.environ, "PYTHONPATH": str(root)})
            if ended.status != 0:
                sys.exit(f"{version}: ended with status {ended.status}\n{ended.stderr}")
            records.progress(f"round {number}, {version}: {ended.seconds:.1f} s")
            if number >= 0:
                size = target.stat().st_size
                runs[version].append({"seconds": ended.seconds, "peak_bytes": ended.peak or 0, "file_bytes": size})
    return runs


def _difference(a: np.ndarray, b: np.ndarray) -> int:
    return max(int(np.abs(one.astype(np.int16) - other).max()) for one, other in zip(a, b, strict=True))


def _encoders(image: np.ndarray) -> dict[str, tuple[float, float, int]]:
    """Returns seconds, seconds of the processor, and the size in bytes, for each encoder."""

    def pillow(level: int) -> Callable[[Any], None]:
        return lambda file: Image.fromarray(image).save(file, "PNG", compress_level=level)

    def ours(level: int) -> Callable[[Any], None]:
        def write(file: Any) -> None:
            png_writing.LEVEL, before = level, png_writing.LEVEL
            try:
                write_png(file, image)
            finally:
                png_writing.LEVEL = before

        return write

    calls = {f"Pillow, level {level}": pillow(level) for level in _LEVELS}
    calls |= {f"this project, level {level}": ours(level) for level in _LEVELS}
    return {name: _timed(call) for name, call in calls.items()}


def _timed(call: Callable[[Any], None]) -> tuple[float, float, int]:
    file = io.BytesIO()
    wall, cpu = time.perf_counter(), time.process_time()
    call(file)
    return time.perf_counter() - wall, time.process_time() - cpu, file.tell()


def _table(runs: Mapping[str, list[dict[str, float]]]) -> str:
    rows = []
    for version, each in runs.items():
        median = {key: statistics.median(run[key] for run in each) for key in each[0]}
        other = runs.get("other", each)
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(each, other, strict=True))
        rows.append(
            [
                version,
                f"{median['seconds']:.1f}",
                f"{ratio:.2f}",
                f"{median['peak_bytes'] / 1e9:.2f}",
                f"{median['file_bytes'] / 1e6:.1f}",
            ]
        )
    return tables.aligned(["version", "seconds", "ratio to the other", "GB at most", "MB of PNG"], rows)


if __name__ == "__main__":
    main()
