"""Draws the positions of patches on the host, and cuts the patches out of the tiles on the devices."""

import contextlib
import dataclasses
from collections.abc import Generator, Sequence

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Int32, UInt8

from seemore_jax.data.degradation import JpegDegradation
from seemore_jax.data.device_tiles import TilePlan, Tiles, local_devices
from seemore_jax.data.jpeg import compress_on_device
from seemore_jax.data.patches import draw_position
from seemore_jax.data.pipeline import sample_batches

_POSITION = 4  # numbers of a draw that say where the patch is; those of its degradation follow


def training_draws(
    plan: TilePlan,
    mesh: Mesh,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    degradation: JpegDegradation | None = None,
) -> Generator[Int32[np.ndarray, "n d"], None, None]:
    """Yields the positions of this process's patches in each batch, without end.

    If all tiles are on each device, these are the samples of `training_batches`. If the tiles are split over the
    devices, each device draws from its own tiles: row r of device d in step t is sample t·rows + r, whose order and
    positions depend only on (seed, d).

    Args:
      plan: the distribution of the tiles.
      mesh: the mesh that the plan was made for.
      batch_size: the number of patches of all processes together.
      seed: the seed of order, positions and orientations, from 0 to 2³² − 1.
      first_step: the number of the first step, from 0.
      degradation: the JPEG compression of LR patches; None leaves them as they are.

    Yields:
      int32 (N, 4), or (N, 6) with a degradation. A row has the number of the tile on the device, the top and the left
      of the patch in LR pixels, and the orientation as three bits, from the lowest: mirrored left to right, mirrored
      top to bottom, transposed. With a degradation, quality and subsampling follow.

    Raises:
      InputError: the batch cannot be split evenly over the processes.
    """
    transform = _RandomPosition(plan.patch_size, degradation)
    if plan.is_split:
        rows = batch_size // mesh.size
        parts = [
            _draws(plan, transform, device, _seed_of_device(seed, device), rows, first_step, 0, 1)
            for device in local_devices(mesh).values()
        ]
    else:
        parts = [_draws(plan, transform, 0, seed, batch_size, first_step, jax.process_index(), jax.process_count())]
    return _concatenated(parts)


def _seed_of_device(seed: int, device: int) -> int:
    return int(np.random.SeedSequence((seed, device)).generate_state(1)[0])


def _draws(
    plan: TilePlan,
    transform: "_RandomPosition",
    device: int,
    seed: int,
    batch_size: int,
    first_step: int,
    process_index: int,
    process_count: int,
) -> grain.IterDataset:
    elements = [(number, *plan.sizes[tile]) for number, tile in enumerate(plan.share(device))]
    return sample_batches(
        elements,
        transform,
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
    """A transformation from (number, height, width) of a tile to a row of `training_draws`."""

    patch_size: int
    degradation: JpegDegradation | None

    def random_map(self, element: tuple[int, int, int], rng: np.random.Generator) -> Int32[np.ndarray, " d"]:
        number, height, width = element
        position = draw_position(rng, height, width, self.patch_size)
        orientation = position.flip_x + 2 * position.flip_y + 4 * position.transpose
        degradation = self.degradation.draw(rng) if self.degradation else ()
        return np.array([number, position.top, position.left, orientation, *degradation], np.int32)


def cut_patches(
    tiles: Tiles, draws: Int[Array, "n d"], *, scale: int, patch_size: int
) -> tuple[UInt8[Array, "n p p 3"], UInt8[Array, "n sp sp 3"]]:
    """Cuts patches out of the tiles on one device. This function can be traced by JAX.

    Args:
      tiles: the tiles on this device.
      draws: rows of `training_draws` for this device, (N, 4) or (N, 6).
      scale: the factor between the sides of HR and of LR.
      patch_size: the side of an LR patch in pixels.

    Returns:
      LR (N, p, p, 3) and HR (N, scale·p, scale·p, 3) with p = `patch_size`, uint8.
    """

    def cut_pair(draw: Int[Array, " d"]) -> tuple[Array, Array]:
        tile, top, left, orientation = draw[:_POSITION]
        lr = _cut_square(tiles.lr, tile, top, left, patch_size)
        hr = _cut_square(tiles.hr, tile, top * scale, left * scale, patch_size * scale)
        return _oriented(lr, orientation), _oriented(hr, orientation)

    lr, hr = jax.vmap(cut_pair)(draws)
    if draws.shape[1] > _POSITION:
        lr = compress_on_device(lr, draws[:, _POSITION], draws[:, _POSITION + 1])
    return lr, hr


def _cut_square(canvases: Array, tile: Array, top: Array, left: Array, side: int) -> Array:
    return jax.lax.dynamic_slice(canvases, (tile, top, 3 * left), (1, side, 3 * side)).reshape(side, side, 3)


def _oriented(patch: Array, orientation: Array) -> Array:
    """Does what `patches.orient` does, for an orientation that is known only on the device."""
    patch = jnp.where(orientation & 1, patch[:, ::-1], patch)
    patch = jnp.where(orientation & 2, patch[::-1], patch)
    return jnp.where(orientation & 4, patch.swapaxes(0, 1), patch)
