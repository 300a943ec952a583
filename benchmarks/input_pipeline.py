"""Crops per second of the input pipeline, and of a loader that decodes the whole image for each crop.

    python benchmarks/input_pipeline.py --images ../shared/data/large

Both read PNG, take the same kind of crops and have the same number of threads; they take turns in one run, so that
other load on the machine meets both. The release's loader is of the second kind.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import imagecodecs
import numpy as np

from seemore_jax.data.datasets.pairs import TrainingPair
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.data.pipeline import Example, RandomPatch, open_dataset, training_batches
from seemore_jax.data.preparation import prepare
from seemore_jax.files import replacing

BATCH_SIZE = 16
THREADS = 4  # as many as the pipeline has


@dataclasses.dataclass(frozen=True)
class Loader:
    """A name, how to start an endless supply of batches, and how many of them make one measurement."""

    name: str
    start: Callable[[], Generator[object, None, None]]
    batches_per_round: int

    def crops_per_second(self) -> float:
        with contextlib.closing(self.start()) as batches:
            _take(batches, self.batches_per_round // 2)  # fills buffers, so that what is measured is the steady state
            start = time.perf_counter()
            _take(batches, self.batches_per_round)
            return self.batches_per_round * BATCH_SIZE / (time.perf_counter() - start)


def _take(batches: Iterator[object], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        pairs = [
            TrainingPair(pair.name, pair.hr, pair.lr)
            for image_set in find_image_sets([options.images], options.scale)
            for pair in image_set.pairs
        ]
        prepare("image_folder", folder, scales=[options.scale], sources=[options.images])
        source = open_dataset("image_folder", folder, options.scale)
        tiles = functools.partial(
            training_batches,
            source,
            scale=options.scale,
            patch_size=options.patch_size,
            batch_size=BATCH_SIZE,
            seed=0,
            first_step=0,
        )
        threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(THREADS))
        files = _write_whole_images(pairs, Path(folder), options.scale)
        transform = RandomPatch(options.scale, options.patch_size)
        whole = functools.partial(_whole_image_batches, files, transform, threads)
        loaders = [Loader("tiles", tiles, 40), Loader("whole images", whole, 2)]
        rounds = [[loader.crops_per_second() for loader in loaders] for _ in range(options.rounds)]
    _report(loaders, rounds, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Crops per second, from tiles and from whole images.")
    parser.add_argument("--images", type=Path, default=Path("../shared/data/large"), help="(default: %(default)s)")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--patch_size", type=int, default=64, help="in LR pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements here")
    return parser.parse_args()


def _write_whole_images(pairs: list[TrainingPair], folder: Path, scale: int) -> list[tuple[Path, Path]]:
    files = []
    for number, pair in enumerate(pairs):
        images = pair.read(scale)
        paths = (folder / f"{number}-lr.png", folder / f"{number}-hr.png")
        for path, image in zip(paths, images, strict=True):
            path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image), level=1))  # as the tiles
        files.append(paths)
    return files


def _whole_image_batches(
    files: list[tuple[Path, Path]], transform: RandomPatch, threads: concurrent.futures.Executor
) -> Generator[object, None, None]:
    def sample(number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(number)
        lr, hr = files[rng.integers(len(files))]
        return transform.random_map(Example(lr=lr.read_bytes(), hr=hr.read_bytes()), rng)

    for first in itertools.count(0, BATCH_SIZE):
        lr, hr = zip(*threads.map(sample, range(first, first + BATCH_SIZE)), strict=True)
        yield np.stack(lr), np.stack(hr)


def _report(loaders: list[Loader], rounds: list[list[float]], options: argparse.Namespace) -> None:
    by_loader = list(zip(*rounds, strict=True))
    print(f"{'crops per second':<20}{'median':>10}{'lowest':>10}{'highest':>10}")
    for loader, speeds in zip(loaders, by_loader, strict=True):
        print(f"{loader.name:<20}{statistics.median(speeds):>10.1f}{min(speeds):>10.1f}{max(speeds):>10.1f}")
    ratio = statistics.median(tiles / whole for tiles, whole in rounds)
    print(f"ratio {ratio:.1f} (median of {len(rounds)} rounds)")
    if options.json:
        result = {
            "crops_per_second": {loader.name: speeds for loader, speeds in zip(loaders, by_loader, strict=True)},
            "ratio": ratio,
            "scale": options.scale,
            "patch_size": options.patch_size,
            "images": str(options.images),
            "cores": os.cpu_count(),
            "machine": platform.processor() or platform.machine(),
        }
        with replacing(options.json) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
