"""Validation during training: whole images of benchmark folders, on all devices of all processes."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, UInt8

from seemore_jax.data.image_pairs import ImagePair
from seemore_jax.data.image_sets import ImageSet
from seemore_jax.evaluation.benchmark import Scores
from seemore_jax.inference.runner import upscale_batch
from seemore_jax.network import SeemoRe
from seemore_jax.system.processes import barrier
from seemore_jax.training.step import BATCH_AXIS, to_devices


@dataclasses.dataclass(frozen=True)
class ValidationImage:
    """A validation image to look at: LR and HR as read, and the network's SR."""

    lr: UInt8[np.ndarray, "h w 3"]
    hr: UInt8[np.ndarray, "sh sw 3"]
    sr: UInt8[np.ndarray, "sh sw 3"]


class Validation:
    """PSNR and SSIM on image sets, measured as `eval.py` does.

    Images of one size are upscaled together, one on each device. Each process reads and scores its own images.
    All processes call the methods together and get the same scores.

    Args:
      sets: the image sets.
      scale: HR / LR.
      graph: the network without its parameters.
      mesh: the devices.
    """

    def __init__(self, sets: Sequence[ImageSet], scale: int, graph: nnx.GraphDef[SeemoRe], mesh: Mesh) -> None:
        self.sets = sets
        self._scale = scale
        self._mesh = mesh
        self._upscale = jax.jit(
            jax.shard_map(
                lambda parameters, lr: upscale_batch(graph, parameters, lr),
                mesh=mesh,
                in_specs=(P(), P(BATCH_AXIS)),
                out_specs=P(BATCH_AXIS),
                check_vma=False,
            )
        )

    def scores(self, parameters: nnx.State) -> dict[str, Scores]:
        """Returns the mean scores of each set by its name.

        Raises:
          InputError: an image cannot be read, or a pair does not belong together.
        """
        return {image_set.name: self._set_scores(image_set.pairs, parameters) for image_set in self.sets}

    def first_image(self, parameters: nnx.State) -> ValidationImage:
        """Upscales the first image of the first set."""
        pair = self.sets[0].pairs[0]
        lr, hr = pair.read(self._scale)
        sr = self._upscale_rows(parameters, np.repeat(lr[None], jax.local_device_count(), axis=0))
        return ValidationImage(lr, hr, sr[0])

    def _set_scores(self, pairs: Sequence[ImagePair], parameters: nnx.State) -> Scores:
        # Each process fills in the images that it scored; the sum over the processes has all of them.
        scored = np.zeros((len(pairs), 2))
        for mine, lr, hrs in self._batches(pairs):
            for index, hr, sr in zip(mine, hrs, self._upscale_rows(parameters, lr), strict=False):
                scores = Scores.of(sr, hr, self._scale)
                scored[index] = scores.psnr, scores.ssim
        barrier("validated")  # processes compile for different sizes and score at different speeds
        everything = np.asarray(multihost_utils.process_allgather(scored, tiled=False))
        psnr, ssim = everything.reshape(-1, len(pairs), 2).sum(axis=0).mean(axis=0)
        return Scores(float(psnr), float(ssim))

    def _batches(
        self, pairs: Sequence[ImagePair]
    ) -> Iterator[tuple[list[int], UInt8[np.ndarray, "n h w 3"], list[np.ndarray]]]:
        """Yields this process's share of each batch: indices of its pairs, their LR (repeated to fill up), their HR."""
        images = [pair.read(self._scale) for pair in pairs]
        of_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (lr, _) in enumerate(images):
            of_size[lr.shape].append(index)
        devices, local = jax.device_count(), jax.local_device_count()
        first = jax.process_index() * local
        for indices in of_size.values():
            for start in range(0, len(indices), devices):
                batch = indices[start : start + devices]
                mine = batch[first : first + local]
                rows = [*mine, *[batch[0]] * (local - len(mine))]
                yield mine, np.stack([images[index][0] for index in rows]), [images[index][1] for index in mine]

    def _upscale_rows(self, parameters: nnx.State, lr: UInt8[np.ndarray, "n h w 3"]) -> list[np.ndarray]:
        """Upscales this process's rows of a global batch."""
        sr: Array = self._upscale(parameters, to_devices(self._mesh, lr))
        shards = sorted(sr.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return [np.asarray(shard.data)[0] for shard in shards]
