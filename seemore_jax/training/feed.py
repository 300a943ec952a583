"""A feed gives the training step its patches.

There are two: batches that the host decodes, and tiles (pieces of the training images) that are kept decoded in the
memory of the devices, from which the step cuts its patches. Patch i of a run depends only on the seed and on i, and, if
the tiles are split over several devices, on the device.
"""

import functools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from seemore_jax.data.device_patches import cut_patches, training_draws
from seemore_jax.data.device_tiles import TilePlan, place_tiles, plan_tiles
from seemore_jax.data.pipeline import training_batches
from seemore_jax.data.stored_pairs import TfdsSource, open_dataset
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.step import SPLIT, Fetch, as_they_are, to_devices


@runtime_checkable
class Feed(Protocol):
    """A feed yields the inputs of the training step, and has the function that makes patches of them.

    Attributes:
      fetch: computes (lr, hr) on each device from the step's two inputs.
      first_spec: how the first input is placed on the mesh; the second is split over the devices.
      note: a line for the user, or "".
    """

    fetch: Fetch
    first_spec: P
    note: str

    def inputs(self, first_step: int) -> Iterator[tuple[Any, Array]]:
        """Yields the two inputs of each step, without end.

        Args:
          first_step: number of steps that are already done; the first inputs are those of the next step.

        Raises:
          InputError: an image is damaged or of another scale.
        """
        ...


def open_feed(experiment: Experiment, mesh: Mesh) -> Feed:
    """Opens the dataset of an experiment.

    Raises:
      InputError: the dataset is missing or damaged, or its tiles do not fit on the devices.
    """
    source = open_dataset(experiment.dataset, experiment.data_dir, experiment.scale)
    if experiment.data_on_device:
        return DeviceFeed(experiment, source, mesh)
    return HostFeed(experiment, source, mesh)


class HostFeed:
    """A feed that yields batches of patches, which the host decodes."""

    fetch: Fetch = staticmethod(as_they_are)
    first_spec = SPLIT
    note = ""

    def __init__(self, experiment: Experiment, source: TfdsSource, mesh: Mesh) -> None:
        self._experiment, self._source, self._mesh = experiment, source, mesh

    def inputs(self, first_step: int) -> Iterator[tuple[Array, Array]]:
        """See `Feed.inputs`."""
        batches = training_batches(
            self._source,
            scale=self._experiment.scale,
            patch_size=self._experiment.patch_size,
            batch_size=self._experiment.batch_size,
            seed=self._experiment.seed,
            first_step=first_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_workers=self._experiment.num_workers,
            degradation=self._experiment.patch_degradation,
        )
        return ((to_devices(self._mesh, batch.lr), to_devices(self._mesh, batch.hr)) for batch in batches)


class DeviceFeed:
    """A feed that keeps all tiles on the devices, and yields them with the positions of the patches to cut.

    Raises:
      InputError: the tiles do not fit on the devices.
    """

    def __init__(self, experiment: Experiment, source: TfdsSource, mesh: Mesh) -> None:
        self._experiment, self._source, self._mesh = experiment, source, mesh
        scale, patch_size = experiment.scale, experiment.patch_size
        self._plan: TilePlan = plan_tiles(source, mesh, scale=scale, patch_size=patch_size)
        self.fetch: Fetch = functools.partial(cut_patches, scale=scale, patch_size=patch_size)
        self.first_spec = self._plan.spec(mesh)
        self.note = str(self._plan)

    def inputs(self, first_step: int) -> Iterator[tuple[Any, Array]]:
        """See `Feed.inputs`; uploads the tiles first."""
        tiles = place_tiles(self._source, self._plan, self._mesh)
        draws = training_draws(
            self._plan,
            self._mesh,
            batch_size=self._experiment.batch_size,
            seed=self._experiment.seed,
            first_step=first_step,
            degradation=self._experiment.patch_degradation,
        )
        return ((tiles, to_devices(self._mesh, rows)) for rows in draws)
