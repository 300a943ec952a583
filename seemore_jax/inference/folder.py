"""Upscaling of many image files, in batches of one size.

A file that cannot be read, upscaled or written is reported and does not stop the others. If the run is interrupted,
each output is complete or does not exist, and the next run makes those that do not exist. Outputs are written by a
thread of their own, while the next images are computed.
"""

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from seemore_jax.data.formats import ImageError, written_format
from seemore_jax.data.image_writing import check_sides, write_image
from seemore_jax.data.images import Picture, has_alpha, read_picture
from seemore_jax.inference.batches import Batch, batches_of_this_process
from seemore_jax.inference.callbacks import Callbacks
from seemore_jax.inference.jobs import Job
from seemore_jax.inference.large_results import announcement
from seemore_jax.inference.outcomes import Outcome, attempt
from seemore_jax.inference.series_jobs import upscale_series
from seemore_jax.inference.settings import Settings, flatten, opaque, reduced
from seemore_jax.inference.ticking import Speed, ticking, work_of
from seemore_jax.inference.upscaling import Upscaled, check_outscale, upscale_images
from seemore_jax.inference.work_division import gathered, on_local_devices
from seemore_jax.inference.writer import Writer
from seemore_jax.network import SeemoRe
from seemore_jax.network.implementations import chosen_implementation

__all__ = ["FileCallbacks", "Outcome", "Settings", "flatten", "upscale_files"]

# Fractions of the work at which an image is read, and at which it is computed and only has to be written.
_READ, _COMPUTED = 0.02, 0.92


class FileCallbacks(NamedTuple):
    """Functions that are called while files are upscaled.

    Attributes:
      progress: called with a job and the fraction of it that is done, from 0 to 1: it is read, computed and written.
        Several threads call it. Of a batch of small images, it is called with the first one only.
      announce: called with a message of one line before a large result is made.
    """

    progress: Callable[[Job, float], None] = lambda job, fraction: None
    announce: Callable[[str], None] = lambda line: None

    def of(self, job: Job, notes: list[str]) -> Callbacks:
        """Returns the callbacks for one file.

        Args:
          job: the job.
          notes: list to which messages for the user are appended.
        """
        return Callbacks(lambda fraction: self.progress(job, fraction), notes.append)


class _Run(NamedTuple):
    """What all batches of a run share."""

    model: SeemoRe
    settings: Settings
    callbacks: FileCallbacks
    writer: Writer
    speed: Speed

    @property
    def factor(self) -> float:
        """Factor of the results."""
        return self.settings.outscale or self.model.config.scale

    def announce(self, job: Job, size: tuple[int, int], images: int = 1) -> None:
        """Announces the result of an image of `size` (height and width in LR pixels), if it is large."""
        line = announcement(self.model.config, size, self.factor, images, self.speed)
        if line:
            self.callbacks.announce(f"{job.source}: {line}")


def upscale_files(
    model: SeemoRe, jobs: Sequence[Job], settings: Settings, callbacks: FileCallbacks | None = None
) -> Iterator[Outcome]:
    """Upscales image files, on all devices of this process.

    In a run of several processes, all of them call this function with the same jobs, in folders that they share, and
    each file is upscaled by one of them.

    Args:
      model: network.
      jobs: files to upscale.
      settings: options.
      callbacks: functions that are called with the progress and with messages.

    Yields:
      The result of each job as soon as it is known, not in the order of the jobs. Process 0 yields the results of all
      processes, the others yield those of their own files.

    Raises:
      InputError: `settings.outscale` is out of range for the network, or the processes have different jobs.
    """
    check_outscale(settings.outscale, model.config.scale)
    callbacks = callbacks or FileCallbacks()
    known, todo = _known_outcomes(jobs, settings)
    if jax.process_index() == 0:
        yield from known
    if jax.process_count() > 1:  # all processes agree on the implementation, also those that get no file
        chosen_implementation(model.config)
    batches = batches_of_this_process(jobs, todo, alone=bool(settings.strip_rows))
    speed = Speed()

    def upscaled(batches: Iterator[Batch]) -> Iterator[Outcome]:
        with Writer() as writer:
            yield from _upscale_batches(_Run(model, settings, callbacks, writer, speed), batches)
            yield from writer.rest()

    yield from gathered(on_local_devices(upscaled, batches), jobs)


def _known_outcomes(jobs: Sequence[Job], settings: Settings) -> tuple[list[Outcome], list[int]]:
    """Returns the outcomes of the jobs that need no computation, and the indices of the other jobs."""
    known, todo = [], []
    for index, job in enumerate(jobs):
        if job.error is not None:
            known.append(Outcome(job, "failed", error=" ".join(job.error.split())))
        elif job.target.exists() and not settings.overwrite:
            known.append(Outcome(job, "skipped"))
        else:
            todo.append(index)
    return known, todo


def _upscale_batches(run: _Run, batches: Iterator[Batch]) -> Iterator[Outcome]:
    """Upscales batches one after the other."""
    for batch in batches:
        if batch.header and batch.header.frames * batch.header.pages > 1:
            for job in batch.jobs:
                yield attempt(job, functools.partial(_series, run, job))
        else:
            yield from _upscale_batch(run, batch)


def _series(run: _Run, job: Job) -> Outcome:
    """Upscales a file with several images."""
    notes: list[str] = []
    callbacks = run.callbacks.of(job, notes)
    outcome = upscale_series(
        run.model,
        job,
        run.settings,
        callbacks,
        lambda series: run.announce(job, series.size[::-1], len(series.indices)),
    )
    return dataclasses.replace(outcome, notes=tuple(dict.fromkeys(notes)))


def _upscale_batch(run: _Run, batch: Batch) -> Iterator[Outcome]:
    """Reads and upscales a batch of jobs."""
    # Images with equal headers can differ, for example in their orientation.
    alike: dict[Any, list[tuple[Job, Picture]]] = defaultdict(list)
    run.callbacks.progress(batch.jobs[0], 0.0)
    for job in batch.jobs:
        picture = attempt(job, functools.partial(_read, run, job))
        if isinstance(picture, Outcome):
            yield picture
        else:
            alike[picture.pixels.shape, picture.pixels.dtype].append((job, picture))
    for pairs in alike.values():
        # Sizes are rounded up to powers of two, so that few programs are compiled.
        filled = batch.size if len(alike) == 1 else 2 ** (len(pairs) - 1).bit_length()
        yield from _upscale_alike(run, pairs, filled)


def _upscale_alike(run: _Run, pairs: Sequence[tuple[Job, Picture]], size: int) -> Iterator[Outcome]:
    """Upscales pictures of one shape and type in one batch, or one after the other if the batch fails."""
    (first, picture), notes = pairs[0], list[str]()
    callbacks = run.callbacks.of(first, notes)
    if len(pairs) == 1:
        run.announce(first, (picture.pixels.shape[0], picture.pixels.shape[1]))
    images = [picture.pixels for _, picture in pairs]
    results = attempt(first, functools.partial(_upscaled, run, images, size, callbacks.span(_READ, _COMPUTED)))
    if isinstance(results, Outcome):
        if len(pairs) == 1 and size == 1:
            yield results
        else:
            for pair in pairs:
                yield from _upscale_alike(run, [pair], 1)
        return
    for (job, picture), result in zip(pairs, results, strict=True):
        write = functools.partial(_write, run, job, picture, result, tuple(notes))
        yield from run.writer.write(functools.partial(attempt, job, write), result.image.nbytes)


def _upscaled(run: _Run, images: list[np.ndarray], size: int, callbacks: Callbacks) -> list[Upscaled]:
    """Upscales images of one shape and type, and measures how fast that is."""
    config, settings = run.model.config, run.settings
    work = size * work_of(config, *images[0].shape[:2]) * (8 if settings.ensemble else 1)
    callbacks.progress(0.0)
    with run.speed.measured(work), ticking(callbacks.progress, run.speed.seconds(work)) as progress:
        results = upscale_images(
            run.model,
            images,
            outscale=settings.outscale,
            ensemble=settings.ensemble,
            batch_size=size,
            strip_rows=settings.strip_rows,
            callbacks=callbacks._replace(progress=progress),
        )
    callbacks.progress(1.0)
    return results


def _read(run: _Run, job: Job) -> Picture:
    """Reads the picture of a job, and checks that its output can be written."""
    picture, format = read_picture(job.source, run.settings.max_pixels), written_format(job.target)
    pixels = picture.pixels if format.alpha else opaque(picture.pixels)
    written = reduced(pixels[:1, :1], run.settings)
    if written.dtype == np.uint16 and not format.sixteen_bit:
        raise ImageError(f"{job.source}: has 16 bits, which {job.target.suffix} cannot hold; --8bit reduces them to 8")
    if has_alpha(written) and not format.alpha:
        raise ImageError(
            f"{job.source}: has transparency, which {job.target.suffix} cannot hold; --flatten lays it on white"
        )
    height, width = (math.ceil(side * run.factor) for side in pixels.shape[:2])
    check_sides(job.target, width, height)
    return dataclasses.replace(picture, pixels=pixels)


def _write(run: _Run, job: Job, picture: Picture, upscaled: Upscaled, notes: tuple[str, ...]) -> Outcome:
    """Writes the output of a job with the metadata of its input."""
    progress = run.callbacks.of(job, []).span(_COMPUTED, 1.0).progress
    image = reduced(upscaled.image, run.settings)
    write_image(job.target, image, picture.metadata, quality=run.settings.quality, progress=progress)
    before, after = (_size(pixels) for pixels in (picture.pixels, image))
    return Outcome(job, "made", before, after, notes=notes, routing=upscaled.routing)


def _size(image: np.ndarray) -> tuple[int, int]:
    """Returns the width and the height of an image."""
    return image.shape[1], image.shape[0]
