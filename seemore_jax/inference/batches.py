"""Batches of image files: which files are computed together, and by which process of a run."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import jax

from seemore_jax.data.images import Header, read_header
from seemore_jax.inference.jobs import Job
from seemore_jax.inference.upscaling import fitting_batch
from seemore_jax.inference.work_division import share_out
from seemore_jax.system.errors import InputError
from seemore_jax.system.processes import from_first_process


class Batch(NamedTuple):
    """Files with equal headers.

    Attributes:
      jobs: the jobs of the files.
      size: number of images of the program that computes them.
      header: their header; None if it cannot be read.
    """

    jobs: Sequence[Job]
    size: int
    header: Header | None

    @property
    def cost(self) -> int:
        """Number of pixels of all images."""
        header = self.header
        return len(self.jobs) * header.width * header.height * header.frames * header.pages if header else 0


def batches_of_this_process(jobs: Sequence[Job], todo: Sequence[int], *, alone: bool) -> list[Batch]:
    """Returns the batches that this process upscales. All processes call this function together.

    Process 0 makes the batches and divides them, because the others may see other outputs already.

    Args:
      jobs: jobs of the run, the same on all processes.
      todo: indices of the jobs whose outputs have to be made; only those of process 0 matter.
      alone: whether each batch has one job, because strips are computed for one image.

    Raises:
      InputError: the processes have different jobs.
    """
    batches = _batches([jobs[index] for index in todo], alone=alone) if jax.process_index() == 0 else []
    shares = share_out([batch.cost for batch in batches], jax.process_count())
    places = {job: place for place, job in enumerate(jobs)}
    planned = [
        [([places[job] for job in batch.jobs], batch.size, batch.header) for batch in map(batches.__getitem__, share)]
        for share in shares
    ]
    digest = hashlib.sha256("\0".join(f"{job.source}\0{job.target}" for job in jobs).encode(errors="replace"))
    theirs, plan = from_first_process([digest.hexdigest(), planned])
    if theirs != digest.hexdigest():
        raise InputError(
            f"process {jax.process_index()} finds other files than process 0; the folders must be the same on all hosts"
        )
    return [
        Batch([jobs[place] for place in chosen], size, Header(*header) if header else None)
        for chosen, size, header in plan[jax.process_index()]
    ]


def _batches(jobs: Sequence[Job], *, alone: bool) -> list[Batch]:
    """Makes batches, so many that each device gets one, if there are enough files.

    Batches with the same header have the same number of jobs, except for the last one, so that they share a program.
    """
    alike: dict[Header | None, list[Job]] = defaultdict(list)
    for job in jobs:
        alike[read_header(job.source)].append(job)
    batches = []
    for header, same in alike.items():
        fitting = fitting_batch(header.height, header.width) if header and not alone else 1
        count = max(math.ceil(len(same) / fitting), min(len(same), jax.device_count()))
        length = math.ceil(len(same) / count)
        batches += [Batch(same[start : start + length], length, header) for start in range(0, len(same), length)]
    return batches
