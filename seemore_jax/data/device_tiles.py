"""A training set that lies decoded on the devices: the host draws places, the step itself cuts the patches out.

The host sends four integers for each patch, instead of pixels. Where all tiles fit on each device, the patches are
those of `training_batches`; where not, the tiles are split over the devices, and each draws from its own share.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, Int32, UInt8
from PIL import Image
from tqdm import tqdm

from seemore_jax.data.pipeline import PairSource, StoredPair, decode_pair, draw_position, sample_batches
from seemore_jax.system.errors import InputError, one_line
from seemore_jax.system.memory import free_memory

# What of a device's free memory the tiles may take. The rest is for the state and the activations of a step, whose
# size only the compiled step knows.
_SHARE_OF_MEMORY = 0.5
_CHUNK = 64  # tiles that are decoded and sent at once
# TPUs store bytes in blocks of this many rows and columns; other sides would be padded to them unseen.
_BLOCK = np.array([32, 128])
_GB = 1e9


class Tiles(NamedTuple):
    """All tiles of a set, or a device's share of them, each at the top left of a canvas of one size for all.

    A row holds R, G, B, R, G, B, …, because TPUs pad a last axis of 3 to 128. What lies outside of an image is
    never part of a patch.
    """

    lr: UInt8[Array, "tiles rows columns"]
    hr: UInt8[Array, "tiles srows scolumns"]


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """Which tiles lie where.

    Attributes:
      sizes: height and width of each LR tile in the dataset.
      scale: HR / LR.
      patch_size: side of an LR patch.
      device_count: of all processes.
      is_split: whether tile t is only on device t mod device_count, or all tiles are on each device.
    """

    sizes: Sequence[tuple[int, int]]
    scale: int
    patch_size: int
    device_count: int
    is_split: bool = False

    def share(self, device: int) -> range:
        """Numbers of the tiles on a device, in their order there."""
        return range(device, len(self.sizes), self.device_count) if self.is_split else range(len(self.sizes))

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Shapes of `Tiles` on one device. Devices with a tile less leave the last canvas empty."""
        lr = np.maximum(np.max(self.sizes, axis=0), self.patch_size)
        rows_and_columns = [-(-lr * factor * (1, 3) // _BLOCK) * _BLOCK for factor in (1, self.scale)]
        low, high = ((len(self.share(0)), int(rows), int(columns)) for rows, columns in rows_and_columns)
        return low, high

    @property
    def bytes_per_device(self) -> int:
        """What the tiles take on each device."""
        return sum(tiles * rows * columns for tiles, rows, columns in self.shapes)

    def spec(self, mesh: Mesh) -> P:
        """How `Tiles` lie on the mesh."""
        return P(mesh.axis_names) if self.is_split else P()

    def __str__(self) -> str:
        how = "split, each draws from its own share" if self.is_split else "all on each, samples as from the host"
        taken = f"{self.bytes_per_device / _GB:.2f} GB on each of {self.device_count} devices"
        return f"data on the device: {len(self.sizes)} tiles, {taken}; {how}"


def plan_tiles(source: PairSource, mesh: Mesh, *, scale: int, patch_size: int) -> TilePlan:
    """Reads the sizes of all tiles and finds out whether and how they fit; the same in all processes.

    Args:
      source: pairs, such as `open_dataset` gives.
      mesh: the devices of all processes, in one axis.
      scale: HR / LR.
      patch_size: side of an LR patch.

    Raises:
      InputError: the tiles do not even fit when they are split.
    """
    with _threads() as threads:
        found = threads.map(lambda number: _lr_size(source[number]), range(len(source)))
        sizes = list(_with_progress(found, len(source), "sizes of the tiles"))
    whole = TilePlan(sizes, scale, patch_size, mesh.size)
    split = dataclasses.replace(whole, is_split=True)
    free = _free_memory()
    room = int(free * _SHARE_OF_MEMORY)
    if whole.bytes_per_device <= room:
        return whole
    if split.bytes_per_device <= room and len(sizes) >= mesh.size:
        return split
    raise InputError(
        f"config: data_on_device needs {split.bytes_per_device / _GB:.2f} GB on each of {mesh.size} devices for "
        f"{len(sizes)} tiles, but may take {room / _GB:.2f} GB, {_SHARE_OF_MEMORY:.0%} of the {free / _GB:.2f} GB that "
        "are free; set it to False"
    )


def place_tiles(source: PairSource, plan: TilePlan, mesh: Mesh) -> Tiles:
    """Decodes the tiles that this process's devices need, and sends them there, a few at a time.

    Raises:
      InputError: an image is damaged, or a pair is of another scale.
    """
    devices = _local_devices(mesh)
    local = {device: [jnp.zeros(shape, jnp.uint8, device=device) for shape in plan.shapes] for device in devices}
    # Devices with the same tiles get them from one decoding.
    groups = [[device] for device in devices] if plan.is_split else [list(devices)]
    with _threads() as threads:
        for group in groups:
            numbers = plan.share(devices[group[0]])
            firsts = range(0, len(numbers), _CHUNK)
            for first in _with_progress(firsts, len(firsts), "tiles to the device"):
                chunk = _canvases(source, plan, numbers[first : first + _CHUNK], threads)
                for device in group:
                    for which, canvases in enumerate(chunk):
                        local[device][which] = _write(local[device][which], jax.device_put(canvases, device), first)
    return Tiles(*(_joined(plan, mesh, [arrays[which] for arrays in local.values()], which) for which in range(2)))


def _local_devices(mesh: Mesh) -> dict[Any, int]:
    """Devices of this process, with their numbers in the mesh."""
    return {d: number for number, d in enumerate(mesh.devices.flat) if d.process_index == jax.process_index()}


def _canvases(
    source: PairSource, plan: TilePlan, numbers: Sequence[int], threads: concurrent.futures.Executor
) -> list[np.ndarray]:
    """LR and HR of some tiles on their canvases, uint8 (tiles, rows, columns)."""
    chunk = [np.zeros((len(numbers), *shape[1:]), np.uint8) for shape in plan.shapes]

    def fill(place: int) -> None:
        pair = decode_pair(source[numbers[place]], plan.scale)
        for canvases, image, side in zip(chunk, pair, (plan.patch_size, plan.patch_size * plan.scale), strict=True):
            # As `crop` extends a small image; so there is a whole patch in each.
            missing = [(0, max(side - length, 0)) for length in image.shape[:2]]
            image = np.pad(image, [*missing, (0, 0)], mode="symmetric")
            canvases[place, : image.shape[0], : 3 * image.shape[1]] = image.reshape(image.shape[0], -1)

    list(threads.map(fill, range(len(numbers))))
    return chunk


@functools.partial(jax.jit, donate_argnums=0)
def _write(stored: Array, tiles: Array, first: Any) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(stored, tiles, first, axis=0)


def _joined(plan: TilePlan, mesh: Mesh, local: list[Array], which: int) -> Array:
    tiles, *canvas = plan.shapes[which]
    shape = (tiles * mesh.size if plan.is_split else tiles, *canvas)
    return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, plan.spec(mesh)), local)


def training_draws(
    plan: TilePlan, mesh: Mesh, *, batch_size: int, seed: int, first_step: int
) -> Generator[Int32[np.ndarray, "n 4"], None, None]:
    """What this process draws for its rows of each batch, from step `first_step` on, without end.

    A row is the tile's number on the device, top and left in LR pixels, and the orientation in three bits: mirrored
    left to right, top to bottom, at the diagonal. Where all tiles are on each device, these are the samples of
    `training_batches`. Where they are split, row r of device d in step t is sample t · rows + r from the d-th share,
    whose order and places follow from (seed, d).

    Args:
      plan: where the tiles are.
      mesh: as for the plan.
      batch_size: of all processes together.
      seed: of order, crops and orientations.
      first_step: number of the first step.

    Raises:
      InputError: the processes do not divide the batch.
    """
    if plan.is_split:
        rows = batch_size // mesh.size
        parts = [
            _draws(plan, device, _seed_of_share(seed, device), rows, first_step, 0, 1)
            for device in _local_devices(mesh).values()
        ]
    else:
        parts = [_draws(plan, 0, seed, batch_size, first_step, jax.process_index(), jax.process_count())]
    return _concatenated(parts)


def _seed_of_share(seed: int, device: int) -> int:
    return int(np.random.SeedSequence((seed, device)).generate_state(1)[0])


def _draws(
    plan: TilePlan, device: int, seed: int, batch_size: int, first_step: int, process_index: int, process_count: int
) -> grain.IterDataset:
    elements = [(place, *plan.sizes[tile]) for place, tile in enumerate(plan.share(device))]
    return sample_batches(
        elements,
        _RandomPosition(plan.patch_size),
        seed=seed,
        batch_size=batch_size,
        first_step=first_step,
        process_index=process_index,
        process_count=process_count,
        stack=np.stack,
    ).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))


def _concatenated(parts: Sequence[grain.IterDataset]) -> Generator[np.ndarray, None, None]:
    with contextlib.ExitStack() as stack:
        iterators = [stack.enter_context(contextlib.closing(iter(part))) for part in parts]
        while True:
            yield np.concatenate([next(iterator) for iterator in iterators])


@dataclasses.dataclass(frozen=True)
class _RandomPosition(grain.transforms.RandomMap):
    """(number, height, width) of a tile to (number, top, left, orientation) of a patch."""

    patch_size: int

    def random_map(self, element: tuple[int, int, int], rng: np.random.Generator) -> Int32[np.ndarray, "4"]:
        number, height, width = element
        position = draw_position(rng, height, width, self.patch_size)
        orientation = position.flip_x + 2 * position.flip_y + 4 * position.transpose
        return np.array([number, position.top, position.left, orientation], np.int32)


def cut_patches(
    tiles: Tiles, draws: Int[Array, "n 4"], *, scale: int, patch_size: int
) -> tuple[UInt8[Array, "n p p 3"], UInt8[Array, "n sp sp 3"]]:
    """LR and HR patches, as drawn by `training_draws`, on one device; to be traced.

    Args:
      tiles: on this device.
      draws: of this device.
      scale: HR / LR.
      patch_size: side of an LR patch.
    """

    def one(draw: Int[Array, "4"]) -> tuple[Array, Array]:
        tile, top, left, orientation = draw
        lr = _cut_square(tiles.lr, tile, top, left, patch_size)
        hr = _cut_square(tiles.hr, tile, top * scale, left * scale, patch_size * scale)
        return _oriented(lr, orientation), _oriented(hr, orientation)

    return jax.vmap(one)(draws)


def _cut_square(stored: Array, tile: Array, top: Array, left: Array, side: int) -> Array:
    return jax.lax.dynamic_slice(stored, (tile, top, 3 * left), (1, side, 3 * side)).reshape(side, side, 3)


def _oriented(patch: Array, orientation: Array) -> Array:
    """As `pipeline.orient`, with the orientation known only to the device."""
    patch = jnp.where(orientation & 1, patch[:, ::-1], patch)
    patch = jnp.where(orientation & 2, patch[::-1], patch)
    return jnp.where(orientation & 4, patch.swapaxes(0, 1), patch)


def _lr_size(example: StoredPair) -> tuple[int, int]:
    """Height and width, from the header alone.

    Raises:
      InputError: it is no image.
    """
    try:
        with Image.open(io.BytesIO(example["lr"])) as image:
            return image.height, image.width
    except Exception as error:  # nearly anything on damaged data
        raise InputError(f"dataset: a damaged image ({one_line(error)}); prepare it again") from error


def _free_memory() -> int:
    """Bytes that each device has free, the least of all of them; on a CPU its part of what this process may take."""
    devices = jax.local_devices()
    statistics = [device.memory_stats() for device in devices]
    if all(s and "bytes_limit" in s for s in statistics):
        free = min(s["bytes_limit"] - s["bytes_in_use"] for s in statistics)
    else:
        free = free_memory() // len(devices)
    # In MB, because JAX gathers 32 bits.
    return int(np.min(multihost_utils.process_allgather(np.int32(free // 2**20)))) * 2**20


@contextlib.contextmanager
def _threads() -> Iterator[concurrent.futures.Executor]:
    """Threads for every core, that an error or an interrupt ends without waiting for what is queued."""
    threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def _with_progress(steps: Iterable[Any], count: int, what: str) -> Iterable[Any]:
    return tqdm(steps, desc=what, total=count, leave=False, disable=jax.process_index() > 0, delay=2)
