"""A training set that is decoded once and stays in the memory of the devices.

The host then sends four integers for each patch instead of pixels, and the training step cuts the patches out of the
tiles (`device_patches`). If all tiles fit on each device, the patches are those of `training_batches`. Otherwise the
tiles are split over the devices, and each device draws from its own tiles.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, UInt8
from tqdm import tqdm

from seemore_jax.data.stored_pairs import PairSource, decode_pair, read_lr_size
from seemore_jax.system.errors import InputError
from seemore_jax.system.memory import free_memory

# The share of a device's free memory that the tiles may take. The rest is for the training state and the activations
# of a step, whose size is known only after the step is compiled.
_SHARE_OF_MEMORY = 0.5
_CHUNK = 64  # tiles that are decoded and sent together
# TPUs store bytes in blocks of this many rows and columns. Other sides would be padded to such blocks, and the padding
# would be missing in the computed size.
_BLOCK = np.array([32, 128])
_GB = 1e9


class Tiles(NamedTuple):
    """The tiles of a training set on the devices, each at the top left of a canvas; all canvases have the same size.

    A row of a canvas holds R, G, B, R, G, B, …, because TPUs pad a last axis of length 3 to 128. No patch contains
    pixels outside its tile.

    Attributes:
      lr: canvases with LR tiles, uint8 (tiles, rows, 3 · columns).
      hr: canvases with HR tiles, uint8 (tiles, rows, 3 · columns).
    """

    lr: UInt8[Array, "tiles rows columns"]
    hr: UInt8[Array, "tiles srows scolumns"]


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """The distribution of the tiles over the devices.

    Attributes:
      sizes: the height and width of each LR tile in the training set, in pixels.
      scale: the factor between the sides of HR and of LR.
      patch_size: the side of an LR patch in pixels.
      device_count: the number of devices of all processes.
      is_split: whether tile t is only on device t mod device_count; otherwise all tiles are on each device.
    """

    sizes: Sequence[tuple[int, int]]
    scale: int
    patch_size: int
    device_count: int
    is_split: bool = False

    def share(self, device: int) -> range:
        """Returns the numbers of the tiles on a device, in their order there.

        Args:
          device: the number of the device in the mesh, from 0.
        """
        return range(device, len(self.sizes), self.device_count) if self.is_split else range(len(self.sizes))

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Returns the shapes of `Tiles.lr` and `Tiles.hr` on one device.

        They are the same on all devices. On a device with one tile less, the last canvas stays empty.
        """
        lr = np.maximum(np.max(self.sizes, axis=0), self.patch_size)
        rows_and_columns = [-(-lr * factor * (1, 3) // _BLOCK) * _BLOCK for factor in (1, self.scale)]
        low, high = ((len(self.share(0)), int(rows), int(columns)) for rows, columns in rows_and_columns)
        return low, high

    @property
    def bytes_per_device(self) -> int:
        """Returns the memory that the tiles take on each device, in bytes."""
        return sum(tiles * rows * columns for tiles, rows, columns in self.shapes)

    def spec(self, mesh: Mesh) -> P:
        """Returns how `Tiles` are partitioned.

        Args:
          mesh: the devices of all processes, in one axis.
        """
        return P(mesh.axis_names) if self.is_split else P()

    def __str__(self) -> str:
        """Describes the plan in one line, for the user."""
        how = "split, each draws from its own share" if self.is_split else "all on each, samples as from the host"
        taken = f"{self.bytes_per_device / _GB:.2f} GB on each of {self.device_count} devices"
        return f"data on the device: {len(self.sizes)} tiles, {taken}; {how}"


def plan_tiles(source: PairSource, mesh: Mesh, *, scale: int, patch_size: int) -> TilePlan:
    """Reads the sizes of all tiles, and plans how to distribute the tiles. The plan is the same in all processes.

    Args:
      source: the stored pairs, such as `open_dataset` returns.
      mesh: the devices of all processes, in one axis.
      scale: the factor between the sides of HR and of LR.
      patch_size: the side of an LR patch in pixels.

    Returns:
      A plan with all tiles on each device if they fit, otherwise a plan that splits them.

    Raises:
      InputError: the tiles do not fit into the memory of the devices even if they are split.
    """
    with _threads() as threads:
        found = threads.map(lambda number: read_lr_size(source[number]), range(len(source)))
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
    """Decodes the tiles that the devices of this process need, and sends them to the devices, a few at a time.

    Args:
      source: the stored pairs that the plan was made for.
      plan: the distribution of the tiles.
      mesh: the mesh that the plan was made for.

    Returns:
      The tiles as arrays that are global to all processes.

    Raises:
      InputError: an image is damaged, or a pair is of another scale.
    """
    devices = local_devices(mesh)
    local = {device: [jnp.zeros(shape, jnp.uint8, device=device) for shape in plan.shapes] for device in devices}
    # Devices with the same tiles get them from the same decoding.
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


def local_devices(mesh: Mesh) -> dict[Any, int]:
    """Returns the devices of this process, with their numbers in the mesh.

    Args:
      mesh: the devices of all processes, in one axis.
    """
    return {d: number for number, d in enumerate(mesh.devices.flat) if d.process_index == jax.process_index()}


def _canvases(
    source: PairSource, plan: TilePlan, numbers: Sequence[int], threads: concurrent.futures.Executor
) -> list[np.ndarray]:
    """Decodes some tiles onto canvases of LR and of HR, uint8 (tiles, rows, columns)."""
    chunk = [np.zeros((len(numbers), *shape[1:]), np.uint8) for shape in plan.shapes]

    def fill(index: int) -> None:
        pair = decode_pair(source[numbers[index]], plan.scale)
        for canvases, image, side in zip(chunk, pair, (plan.patch_size, plan.patch_size * plan.scale), strict=True):
            # A small image is extended by mirroring, as `patches.crop` does, so that it holds a whole patch.
            missing = [(0, max(side - length, 0)) for length in image.shape[:2]]
            image = np.pad(image, [*missing, (0, 0)], mode="symmetric")
            canvases[index, : image.shape[0], : 3 * image.shape[1]] = image.reshape(image.shape[0], -1)

    list(threads.map(fill, range(len(numbers))))
    return chunk


@functools.partial(jax.jit, donate_argnums=0)
def _write(canvases: Array, chunk: Array, first: Any) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(canvases, chunk, first, axis=0)


def _joined(plan: TilePlan, mesh: Mesh, local: list[Array], which: int) -> Array:
    """Joins the arrays of this process's devices into a global array; `which` is 0 for LR and 1 for HR."""
    tiles, *canvas = plan.shapes[which]
    shape = (tiles * mesh.size if plan.is_split else tiles, *canvas)
    return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, plan.spec(mesh)), local)


def _free_memory() -> int:
    """Returns the smallest free memory of all devices in bytes. CPU devices share the memory of their process."""
    devices = jax.local_devices()
    statistics = [device.memory_stats() for device in devices]
    if all(s and "bytes_limit" in s for s in statistics):
        free = min(s["bytes_limit"] - s["bytes_in_use"] for s in statistics)
    else:
        free = free_memory() // len(devices)
    # In MiB, because JAX gathers 32-bit integers.
    return int(np.min(multihost_utils.process_allgather(np.int32(free // 2**20)))) * 2**20


@contextlib.contextmanager
def _threads() -> Iterator[concurrent.futures.Executor]:
    """Starts a thread for each core. After an error or an interrupt, the queued work is cancelled."""
    threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def _with_progress(steps: Iterable[Any], count: int, what: str) -> Iterable[Any]:
    return tqdm(steps, desc=what, total=count, leave=False, disable=jax.process_index() > 0, delay=2)
