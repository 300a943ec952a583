"""Where the step has its patches from: batches that the host decodes, or tiles that lie on the devices."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
from ml_collections import ConfigDict

from seemore_jax.data.device_tiles import TilePlan, cut_patches, place_tiles, training_draws
from seemore_jax.data.pipeline import TfdsSource, training_batches
from seemore_jax.training.step import SPLIT, to_devices


class Feed(NamedTuple):
    """What the step is called with, and how it makes patches of that.

    Attributes:
      inputs: for each step the two arguments between the state and the requests to stop, without end.
      fetch: makes (lr, hr) of them, on each device; None if that is what they are.
      first_spec: how the first of the two lies on the mesh; the second is split over the devices.
    """

    inputs: Iterator[tuple[Any, Array]]
    fetch: Callable[[Any, Array], tuple[Array, Array]] | None
    first_spec: P


def open_feed(config: ConfigDict, source: TfdsSource, plan: TilePlan | None, mesh: Mesh, first_step: int) -> Feed:
    """The feed from step `first_step` on: from the host, or where there is a plan for it, from the devices.

    Raises:
      InputError: a tile that has to be uploaded is damaged or of another scale.
    """
    if plan is None:
        return _host_feed(config, source, mesh, first_step)
    tiles = place_tiles(source, plan, mesh)
    draws = training_draws(plan, mesh, batch_size=config.batch_size, seed=config.seed, first_step=first_step)
    fetch = functools.partial(cut_patches, scale=config.scale, patch_size=config.patch_size)
    return Feed(((tiles, to_devices(mesh, rows)) for rows in draws), fetch, plan.spec(mesh))


def _host_feed(config: ConfigDict, source: TfdsSource, mesh: Mesh, first_step: int) -> Feed:
    batches = training_batches(
        source,
        scale=config.scale,
        patch_size=config.patch_size,
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=first_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_workers=config.num_workers,
    )
    return Feed(((to_devices(mesh, b.lr), to_devices(mesh, b.hr)) for b in batches), None, SPLIT)
