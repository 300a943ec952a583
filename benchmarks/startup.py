"""From the command to the finished file: `python -m seemore_jax upscale` of a small image, first and later starts.

    python -m benchmarks.startup --output FILE.json

Each round begins with an empty cache, as on a machine that has never seen the project: the first start compiles the
C++ kernels and XLA's programs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import seemore_jax as sj
from benchmarks import timing
from seemore_jax.data import write_image

_SIZE = (180, 320)


def main() -> None:
    options = _options()
    seconds: dict[str, list[float]] = {"first": [], "second": []}
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "image.png"
        write_image(image, _picture())
        for number in range(options.rounds):
            for times in seconds.values():
                times.append(_start(image, options.model, Path(name) / f"cache{number}"))
    medians = {start: statistics.median(times) for start, times in seconds.items()}
    print("| start | seconds |\n|---|---|")
    print("\n".join(f"| {start} | {median:.2f} |" for start, median in medians.items()))
    print(timing.footer(round(sum(map(sum, seconds.values())))))
    timing.write(options.output, {"model": options.model, "seconds": seconds, "medians": medians})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times the upscale command on a 320×180 image.")
    parser.add_argument("--model", default="T-x4", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are taken (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all figures as JSON")
    return parser.parse_args()


def _picture() -> np.ndarray:
    """Smooth, as photographs are: to write noise would take longer."""
    height, width = _SIZE
    return sj.imresize(np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8), 10)


def _start(image: Path, model: str, cache: Path) -> float:
    command = [sys.executable, "-m", "seemore_jax", "upscale", str(image), "-o", str(image.parent / "out")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    begin = time.perf_counter()
    subprocess.run([*command, "-m", model, "--overwrite"], env=environment, check=True, capture_output=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
