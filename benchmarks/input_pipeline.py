"""Measures the cost of the training input: crops per second from the host, and its share of a step on the device.

    python -m benchmarks.input_pipeline --images ../shared/data/large --output input.json

The loaders on the host read PNG files and take crops of the same kind. They take turns in one run, so that other load
on the machine slows all of them. The release's loader decodes the whole image for each crop; here it has as many
threads as the pipeline. The CPU time of a crop hardly depends on other load, so that cores / CPU time is what an idle
machine could reach. On the device, the input's share of a step is an upper limit: drawing, sending and cutting are
added up as if none of them happened while the step before is computed.
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
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import jax
import numpy as np
from flax import nnx

from benchmarks.harness import options, records, timing
from seemore_jax.configs.release import recipe
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
THREADS = 4  # the number of threads of the pipeline
REPEATS = 20  # how often a short operation on the device is repeated in one measurement


@dataclasses.dataclass(frozen=True)
class Loader:
    """Names a loader, starts its endless batches, and says how many of them are one measurement."""

    name: str
    start: Callable[[], Generator[object, None, None]]
    batches_per_round: int

    def measure(self) -> tuple[float, float]:
        """Returns the crops per second, and the CPU milliseconds of this process for each crop."""
        with contextlib.closing(self.start()) as batches:
            _take(batches, self.batches_per_round // 2)  # This fills buffers, so that the steady state is measured.
            start, cpu_start = time.perf_counter(), time.process_time()
            _take(batches, self.batches_per_round)
            crops = self.batches_per_round * BATCH_SIZE
            return crops / (time.perf_counter() - start), (time.process_time() - cpu_start) / crops * 1e3


def _take(batches: Iterator[object], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass


def main() -> None:
    chosen = _options()
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        prepare("image_folder", folder, scales=[chosen.scale], sources=[chosen.images])
        source = open_dataset("image_folder", folder, chosen.scale)
        loaders = _loaders(source, Path(folder), threads, chosen)
        rounds = [[loader.measure() for loader in loaders] for _ in range(chosen.rounds)]
        result = _host_figures(loaders, rounds) | _device_figures(_measure_device(source, chosen))
    _print_host_figures(result, len(rounds))
    _print_device_figures(result, chosen)
    names = ("scale", "patch_size", "variant", "step_batch")
    settings = {name: getattr(chosen, name) for name in names} | {"images": str(chosen.images)}
    records.finish(chosen.output, result | settings)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures the cost of the input of a training run.")
    parser.add_argument(
        "--images", type=Path, default=Path("../shared/data/large"), help="folder of images (default: %(default)s)"
    )
    parser.add_argument("--scale", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument(
        "--patch_size", type=int, default=64, help="side of a training patch in LR pixels (default: %(default)s)"
    )
    options.add_rounds(parser, default=7)
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[2, 4], help="numbers of worker processes to measure (default: 2 4)"
    )
    parser.add_argument(
        "--variant", default="T", help="variant whose training step the input is compared with (default: %(default)s)"
    )
    parser.add_argument("--step_batch", type=int, default=4, help="patches in that step (default: %(default)s)")
    options.add_output(parser)
    return parser.parse_args()


def _loaders(
    source: TfdsSource, folder: Path, threads: concurrent.futures.Executor, chosen: argparse.Namespace
) -> list[Loader]:
    """Returns the pipeline without workers, the release's loader, and the pipeline with workers, in this order."""
    tiles = functools.partial(
        training_batches,
        source,
        scale=chosen.scale,
        patch_size=chosen.patch_size,
        batch_size=BATCH_SIZE,
        seed=0,
        first_step=0,
    )
    pairs = [
        TrainingPair(pair.name, pair.hr, pair.lr)
        for image_set in find_image_sets([chosen.images], chosen.scale)
        for pair in image_set.pairs
    ]
    files = _write_whole_images(pairs, folder, chosen.scale)
    transform = RandomPatch(chosen.scale, chosen.patch_size)
    whole = functools.partial(_whole_image_batches, files, transform, threads)
    with_workers = [
        Loader(f"tiles, {workers} workers", functools.partial(tiles, num_workers=workers), 80)
        for workers in chosen.workers
    ]
    return [Loader("tiles", tiles, 40), Loader("whole images", whole, 2), *with_workers]


def _measure_device(source: TfdsSource, chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Returns the milliseconds of the parts of a training step with the tiles on the device; they take turns."""
    experiment = Experiment.of(recipe(chosen.variant, chosen.scale))
    mesh, optimizer = make_mesh(), make_optimizer(experiment)
    graph, parameters = nnx.split(SeemoRe(experiment.network, rngs=nnx.Rngs(0)), nnx.Param)[:2]
    state = initial_state(parameters, optimizer, average=False, mesh=mesh)
    plan = plan_tiles(source, mesh, scale=chosen.scale, patch_size=chosen.patch_size)
    tiles = place_tiles(source, plan, mesh)
    fetch = functools.partial(cut_patches, scale=chosen.scale, patch_size=chosen.patch_size)
    split = plan.spec(mesh), SPLIT
    cut = jax.jit(jax.shard_map(fetch, mesh=mesh, in_specs=split, out_specs=SPLIT, check_vma=False))
    train = make_train_step(graph, optimizer, mesh, fetch=fetch, first_spec=plan.spec(mesh))
    stop = to_devices(mesh, np.zeros(jax.local_device_count(), np.float32))
    draws = training_draws(plan, mesh, batch_size=chosen.step_batch, seed=0, first_step=0)
    rows: Any = None
    sent: Any = None

    def draw() -> None:
        nonlocal rows
        for _ in range(REPEATS):
            rows = next(draws)

    def send() -> None:
        nonlocal sent
        for _ in range(REPEATS):
            sent = jax.block_until_ready(to_devices(mesh, rows))

    def cut_out() -> None:
        for _ in range(REPEATS):
            jax.block_until_ready(cut(tiles, sent))

    def step() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(train(state, tiles, sent, stop))

    with contextlib.closing(draws):
        timings = timing.in_turns({"draw": draw, "send": send, "cut": cut_out, "step": step}, rounds=chosen.rounds)
    return {
        name: [1e3 * taken / (1 if name == "step" else REPEATS) for taken in seconds]
        for name, seconds in timings.seconds.items()
    }


def _write_whole_images(pairs: list[TrainingPair], folder: Path, scale: int) -> list[tuple[Path, Path]]:
    """Writes each pair as two PNG files, which the release's loader reads."""
    files = []
    for number, pair in enumerate(pairs):
        images = pair.read(scale)
        paths = (folder / f"{number}-lr.png", folder / f"{number}-hr.png")
        for path, image in zip(paths, images, strict=True):
            path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image), level=1))
        files.append(paths)
    return files


def _whole_image_batches(
    files: list[tuple[Path, Path]], transform: RandomPatch, threads: concurrent.futures.Executor
) -> Generator[object, None, None]:
    """Yields batches as the release's loader makes them: it decodes a whole image for each crop."""

    def sample(number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(number)
        lr, hr = files[rng.integers(len(files))]
        return transform.random_map(StoredPair(lr=lr.read_bytes(), hr=hr.read_bytes()), rng)

    for first in itertools.count(0, BATCH_SIZE):
        lr, hr = zip(*threads.map(sample, range(first, first + BATCH_SIZE)), strict=True)
        yield np.stack(lr), np.stack(hr)


def _host_figures(loaders: Sequence[Loader], rounds: Sequence[Sequence[tuple[float, float]]]) -> dict[str, Any]:
    # The CPU time of worker processes is not part of that of this process.
    without_workers = loaders[:2]
    cpu = {loader.name: [r[i][1] for r in rounds] for i, loader in enumerate(without_workers)}
    return {
        "crops_per_second": {loader.name: [r[i][0] for r in rounds] for i, loader in enumerate(loaders)},
        "cpu_ms_per_crop": cpu,
        "ratio": statistics.median(tiles / whole for (tiles, _), (whole, _), *_ in rounds),
        "idle_machine": (os.cpu_count() or 1) * 1e3 / statistics.median(cpu["tiles"]),
    }


def _device_figures(milliseconds: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(times) for name, times in milliseconds.items()}
    share = sum(medians[name] for name in ("draw", "send", "cut")) / medians["step"]
    return {"on_device_ms": milliseconds, "input_share": share}


def _print_host_figures(result: dict[str, Any], rounds: int) -> None:
    print(f"{'crops per second':<20}{'median':>10}{'lowest':>10}{'highest':>10}{'CPU ms each':>14}")
    for name, speeds in result["crops_per_second"].items():
        cpu = result["cpu_ms_per_crop"].get(name)
        shown = f"{statistics.median(cpu):>14.2f}" if cpu else f"{'-':>14}"
        print(f"{name:<20}{statistics.median(speeds):>10.1f}{min(speeds):>10.1f}{max(speeds):>10.1f}{shown}")
    print(f"tiles / whole images: {result['ratio']:.1f} (median of {rounds} rounds)")
    print(
        f"tiles, if all of {os.cpu_count() or 1} cores did nothing else: {result['idle_machine']:.0f} crops per second"
    )


def _print_device_figures(result: dict[str, Any], chosen: argparse.Namespace) -> None:
    medians = {name: statistics.median(times) for name, times in result["on_device_ms"].items()}
    print(f"\nSeemoRe-{chosen.variant} ×{chosen.scale}, tiles on the device, batch {chosen.step_batch}, ms:")
    print(", ".join(f"{name} {median:.2f}" for name, median in medians.items()))
    print(f"input's share of the step: at most {result['input_share']:.3%}")


if __name__ == "__main__":
    main()
