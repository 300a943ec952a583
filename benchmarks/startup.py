"""Measures the time from the command to the finished file: `python -m seemore_jax upscale` of a small image.

    python -m benchmarks.startup --output FILE.json

Each round begins with an empty cache, as on a machine where the project has never run: the first start compiles the
C++ kernels and XLA's programs, the second one finds them in the cache.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np

import seemore_jax as sj
from benchmarks.harness import networks, options, processes, records, tables
from seemore_jax.data import write_image

_SIZE = (180, 320)


def main() -> None:
    chosen = _options()
    seconds: dict[str, list[float]] = {"first": [], "second": []}
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "image.png"
        write_image(image, _smooth_image())
        for number in range(chosen.rounds):
            for times in seconds.values():
                times.append(_upscale(image, chosen.model, Path(name) / f"cache{number}"))
    medians = {start: statistics.median(times) for start, times in seconds.items()}
    print(tables.compact(["start", "seconds"], [[start, f"{median:.2f}"] for start, median in medians.items()]))
    print(records.footer(round(sum(map(sum, seconds.values())))))
    records.finish(chosen.output, {"model": chosen.model, "seconds": seconds, "medians": medians})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times the upscale command on a 320×180 image.")
    options.add_weights_name(parser)
    options.add_rounds(parser, default=5)
    options.add_output(parser)
    return parser.parse_args()


def _smooth_image() -> np.ndarray:
    """Returns an image as smooth as a photograph: noise would take longer to write."""
    height, width = _SIZE
    return sj.imresize(networks.random_images(1, height // 10, width // 10)[0], 10)


def _upscale(image: Path, model: str, cache: Path) -> float:
    """Returns the seconds of the command with that cache."""
    command = ["-m", "seemore_jax", "upscale", str(image), "-o", str(image.parent / "out"), "-m", model, "--overwrite"]
    return processes.run_python(*command, environment={**os.environ, "XDG_CACHE_HOME": str(cache)}).seconds


if __name__ == "__main__":
    main()
