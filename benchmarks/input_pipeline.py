"""What the input costs: crops per second from the host, and the share of a step where the tiles lie on the device.

    python -m benchmarks.input_pipeline --images ../shared/data/large --output input.json

The loaders on the host read PNG and take the same kind of crops; they take turns in one run, so that other load on
the machine meets all of them. The release's loader decodes the whole image for each crop, with as many threads as
the pipeline has. What a crop costs in CPU time hardly depends on other load: cores / cost is what an idle machine
could do. The input's share of a step on the device is an upper bound: drawing, sending and cutting, added up as if
nothing of it happened while the step before is computed.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import jax
import numpy as np
from flax import nnx

from benchmarks import timing
from configs.release import recipe
from seemore_jax.data.datasets.pairs import TrainingPair
from seemore_jax.data.device_patches import cut_patches, training_draws
from seemore_jax.data.device_tiles import place_tiles, plan_tiles
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.data.patches import RandomPatch
from seemore_jax.data.pipeline import training_batches
from seemore_jax.data.preparation import prepare
from seemore_jax.data.stored_pairs import StoredPair, TfdsSource, open_dataset
from seemore_jax.network import SeemoRe
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.optimizer import make_optimizer
from seemore_jax.training.step import SPLIT, initial_state, make_mesh, make_train_step, to_devices

BATCH_SIZE = 16
THREADS = 4  # as many as the pipeline has


@dataclasses.dataclass(frozen=True)
class Loader:
    """A name, how to start an endless supply of batches, and how many of them make one measurement."""

    name: str
    start: Callable[[], Generator[object, None, None]]
    batches_per_round: int

    def measure(self) -> tuple[float, float]:
        """Crops per second, and the CPU milliseconds of this process for each crop."""
        with contextlib.closing(self.start()) as batches:
            _take(batches, self.batches_per_round // 2)  # fills buffers, so that what is measured is the steady state
            start, cpu_start = time.perf_counter(), time.process_time()
            _take(batches, self.batches_per_round)
            crops = self.batches_per_round * BATCH_SIZE
            return crops / (time.perf_counter() - start), (time.process_time() - cpu_start) / crops * 1e3


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
        loaders += [
            Loader(f"tiles, {workers} workers", functools.partial(tiles, num_workers=workers), 80)
            for workers in options.workers
        ]
        rounds = [[loader.measure() for loader in loaders] for _ in range(options.rounds)]
        on_device = _measure_device(source, options)
    _report(loaders, rounds, on_device, options)


def _measure_device(source: TfdsSource, options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of the parts of a training step with the tiles on the device, in turns."""
    experiment = Experiment.of(recipe(options.variant, options.scale))
    mesh, optimizer = make_mesh(), make_optimizer(experiment)
    graph, parameters = nnx.split(SeemoRe(experiment.network, rngs=nnx.Rngs(0)), nnx.Param)[:2]
    state = initial_state(parameters, optimizer, average=False, mesh=mesh)
    plan = plan_tiles(source, mesh, scale=options.scale, patch_size=options.patch_size)
    tiles = place_tiles(source, plan, mesh)
    fetch = functools.partial(cut_patches, scale=options.scale, patch_size=options.patch_size)
    split = plan.spec(mesh), SPLIT
    cut = jax.jit(jax.shard_map(fetch, mesh=mesh, in_specs=split, out_specs=SPLIT, check_vma=False))
    step = make_train_step(graph, optimizer, mesh, fetch=fetch, first_spec=plan.spec(mesh))
    stop = to_devices(mesh, np.zeros(jax.local_device_count(), np.float32))
    times: dict[str, list[float]] = {"draw": [], "send": [], "cut": [], "step": []}
    draws = training_draws(plan, mesh, batch_size=options.step_batch, seed=0, first_step=0)
    with contextlib.closing(draws):
        for number in range(-1, options.rounds):  # the first time compiles, and does not count
            with _timed(times["draw"], repeats := 20):
                for _ in range(repeats):
                    rows = next(draws)
            with _timed(times["send"], repeats):
                for _ in range(repeats):
                    sent = jax.block_until_ready(to_devices(mesh, rows))
            if number < 0:
                jax.block_until_ready(cut(tiles, sent))
            with _timed(times["cut"], repeats):
                for _ in range(repeats):
                    jax.block_until_ready(cut(tiles, sent))
            with _timed(times["step"]):
                state, _ = jax.block_until_ready(step(state, tiles, sent, stop))
    return {name: measured[1:] for name, measured in times.items()}


@contextlib.contextmanager
def _timed(times: list[float], repeats: int = 1) -> Iterator[None]:
    """Appends the milliseconds that one of `repeats` repetitions in the block took."""
    start = time.perf_counter()
    yield
    times.append((time.perf_counter() - start) / repeats * 1e3)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What the input of a training run costs.")
    parser.add_argument("--images", type=Path, default=Path("../shared/data/large"), help="(default: %(default)s)")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--patch_size", type=int, default=64, help="in LR pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 4], help="numbers of worker processes to try")
    parser.add_argument("--variant", default="T", help="whose training step the input is compared with")
    parser.add_argument("--step_batch", type=int, default=4, help="of that step (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the measurements here, as JSON")
    return parser.parse_args()


def _write_whole_images(pairs: list[TrainingPair], folder: Path, scale: int) -> list[tuple[Path, Path]]:
    files = []
    for number, pair in enumerate(pairs):
        images = pair.read(scale)
        paths = (folder / f"{number}-lr.png", folder / f"{number}-hr.png")
        for path, image in zip(paths, images, strict=True):
            path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image), level=1))  # as photographs are
        files.append(paths)
    return files


def _whole_image_batches(
    files: list[tuple[Path, Path]], transform: RandomPatch, threads: concurrent.futures.Executor
) -> Generator[object, None, None]:
    def sample(number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(number)
        lr, hr = files[rng.integers(len(files))]
        return transform.random_map(StoredPair(lr=lr.read_bytes(), hr=hr.read_bytes()), rng)

    for first in itertools.count(0, BATCH_SIZE):
        lr, hr = zip(*threads.map(sample, range(first, first + BATCH_SIZE)), strict=True)
        yield np.stack(lr), np.stack(hr)


def _report(
    loaders: list[Loader],
    rounds: list[list[tuple[float, float]]],
    on_device: dict[str, list[float]],
    options: argparse.Namespace,
) -> None:
    result: dict[str, Any] = {
        "crops_per_second": {loader.name: [r[i][0] for r in rounds] for i, loader in enumerate(loaders)},
        "cpu_ms_per_crop": {loader.name: [r[i][1] for r in rounds] for i, loader in enumerate(loaders[:2])},
        "ratio": statistics.median(tiles / whole for (tiles, _), (whole, _), *_ in rounds),
        "on_device_ms": on_device,
    }
    print(f"{'crops per second':<20}{'median':>10}{'lowest':>10}{'highest':>10}{'CPU ms each':>14}")
    for name, speeds in result["crops_per_second"].items():
        cpu = result["cpu_ms_per_crop"].get(name)  # that of worker processes is not seen from here
        shown = f"{statistics.median(cpu):>14.2f}" if cpu else f"{'-':>14}"
        print(f"{name:<20}{statistics.median(speeds):>10.1f}{min(speeds):>10.1f}{max(speeds):>10.1f}{shown}")
    cores = os.cpu_count() or 1
    result["idle_machine"] = cores * 1e3 / statistics.median(result["cpu_ms_per_crop"]["tiles"])
    print(f"tiles / whole images: {result['ratio']:.1f} (median of {len(rounds)} rounds)")
    print(f"tiles, if all of {cores} cores did nothing else: {result['idle_machine']:.0f} crops per second")
    medians = {name: statistics.median(times) for name, times in on_device.items()}
    result["input_share"] = sum(medians[name] for name in ("draw", "send", "cut")) / medians["step"]
    print(f"\nSeemoRe-{options.variant} ×{options.scale}, tiles on the device, batch {options.step_batch}, ms:")
    print(", ".join(f"{name} {median:.2f}" for name, median in medians.items()))
    print(f"input's share of the step: at most {result['input_share']:.3%}")
    names = ("scale", "patch_size", "variant", "step_batch")
    settings = {name: getattr(options, name) for name in names} | {"images": str(options.images)}
    timing.write(options.output, result | settings)


if __name__ == "__main__":
    main()
