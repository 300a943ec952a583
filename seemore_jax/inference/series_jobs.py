"""Upscaling of files with several images: animations, frame by frame, and TIFF files with several pages."""

import itertools
import math
from collections.abc import Callable, Iterator

from seemore_jax.data.image_writing import check_sides
from seemore_jax.data.images import Picture
from seemore_jax.data.series import Series, images_of, read_series
from seemore_jax.data.series_writing import check_series_target, write_series
from seemore_jax.inference.callbacks import Callbacks
from seemore_jax.inference.jobs import Job
from seemore_jax.inference.outcomes import Outcome
from seemore_jax.inference.settings import Settings, reduced
from seemore_jax.inference.upscaling import Upscaled, fitting_batch, upscale_images
from seemore_jax.network import SeemoRe


def upscale_series(
    model: SeemoRe, job: Job, settings: Settings, callbacks: Callbacks, announce: Callable[[Series], None]
) -> Outcome:
    """Upscales the images of a file one after the other, and writes them into one file.

    Only a batch of them is in memory at once.

    Args:
      model: network.
      job: a job whose input has several images.
      settings: options.
      callbacks: functions that are called with the progress and with messages.
      announce: function that is called with what is known of the file, before anything is computed.

    Raises:
      ImageError: the input is damaged, or the output cannot be written or cannot hold the images.
    """
    callbacks.progress(0.0)
    factor = settings.outscale or model.config.scale
    series = read_series(job.source, settings.max_pixels)
    check_series_target(job.target, series)
    check_sides(job.target, *[math.ceil(series.longest * factor)] * 2)
    announce(series)
    first: list[Upscaled] = []
    write_series(
        job.target,
        _upscaled(model, series, settings, callbacks, first),
        series,
        value_count=math.ceil(series.values * factor**2),
        quality=settings.quality,
    )
    callbacks.progress(1.0)
    after = first[0].image.shape[1], first[0].image.shape[0]
    return Outcome(job, "made", series.size, after, images=len(series.indices), routing=first[0].routing)


def _upscaled(
    model: SeemoRe, series: Series, settings: Settings, callbacks: Callbacks, first: list[Upscaled]
) -> Iterator[Picture]:
    """Yields the upscaled images; appends the first one to `first`."""
    done, count = 0, len(series.indices)
    for pictures, size in _batches(series, settings):
        part = callbacks.span(done / count, (done + len(pictures)) / count)
        results = upscale_images(
            model,
            [picture.pixels for picture in pictures],
            outscale=settings.outscale,
            ensemble=settings.ensemble,
            batch_size=size,
            strip_rows=settings.strip_rows,
            callbacks=part,
        )
        if not first:
            first.append(results[0])
        for picture, result in zip(pictures, results, strict=True):
            yield Picture(reduced(result.image, settings), picture.metadata)
        part.progress(1.0)
        done += len(pictures)


def _batches(series: Series, settings: Settings) -> Iterator[tuple[list[Picture], int]]:
    """Yields successive images of one shape and type, and the number of images of the program that computes them."""
    images = images_of(series, settings.max_pixels)
    for (shape, _), alike in itertools.groupby(images, lambda picture: (picture.pixels.shape, picture.pixels.dtype)):
        size = 1 if settings.strip_rows else min(fitting_batch(*shape[:2]), len(series.indices))
        while pictures := list(itertools.islice(alike, size)):
            yield pictures, size
