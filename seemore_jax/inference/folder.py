"""Upscaling of many image files, in batches of one size.

A file that cannot be read, upscaled or written is reported and does not stop the others. If the run is interrupted,
each output is complete or does not exist, and the next run makes those that do not exist.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import UInt

from seemore_jax.data.image_writing import (
    can_hold_16_bits,
    can_hold_alpha,
    check_image_target,
    check_sides,
    write_image,
)
from seemore_jax.data.images import (
    MAX_PIXELS,
    Header,
    ImageError,
    Picture,
    has_alpha,
    read_header,
    read_picture,
    to_8_bits,
)
from seemore_jax.inference.callbacks import Callbacks
from seemore_jax.inference.jobs import Job
from seemore_jax.inference.upscaling import Upscaled, check_outscale, upscale_images
from seemore_jax.network import Routing, SeemoRe
from seemore_jax.system.errors import InputError

# Largest size of a batch, in LR pixels and in images. It keeps a device busy and takes little memory compared with one
# large image.
_BATCH_PIXELS = 2**18
_BATCH_IMAGES = 16

# Function that is called with a job and the fraction of it that is done, from 0 to 1.
Progress = Callable[[Job, float], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of the upscaling of files.

    Attributes:
      outscale: factor of the results, None for the factor of the network.
      ensemble: whether to average over eight flips and transposes.
      flatten: whether to compose transparent images with white.
      eight_bit: whether to write 16-bit images with 8 bits.
      overwrite: whether to replace existing outputs.
      strip_rows: height of a strip in LR pixels; 0 means whole images, None depends on the size of the image.
      max_pixels: largest number of pixels that the header of a file may declare.
    """

    outscale: float | None = None
    ensemble: bool = False
    flatten: bool = False
    eight_bit: bool = False
    overwrite: bool = False
    strip_rows: int | None = None
    max_pixels: int = MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of a job.

    Attributes:
      job: the job.
      status: "made" if the output was written, "skipped" if it already existed, or "failed".
      before: width and height of the input in pixels, if the output was written.
      after: width and height of the output in pixels, if it was written.
      error: message of one line, if the job failed.
      notes: messages for the user, for example about a near tie between two experts.
      routing: routing of a batch of this image, if the output was written.
    """

    job: Job
    status: Literal["made", "skipped", "failed"]
    before: tuple[int, int] | None = None
    after: tuple[int, int] | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    routing: Routing | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the result in types of JSON, without the fields that are None or empty."""
        fields = {
            "input": str(self.job.source),
            "output": str(self.job.target) if self.status != "failed" else None,
            "status": self.status,
            "from": self.before,
            "to": self.after,
            "error": self.error,
            "notes": self.notes or None,
        }
        return {name: value for name, value in fields.items() if value is not None}


def upscale_files(
    model: SeemoRe, jobs: Sequence[Job], settings: Settings, progress: Progress = lambda job, fraction: None
) -> Iterator[Outcome]:
    """Upscales image files.

    Args:
      model: network.
      jobs: files to upscale.
      settings: options.
      progress: function that is called while a large image is upscaled, with its job and the fraction that is done.

    Yields:
      The result of each job as soon as it is known, not in the order of the jobs.

    Raises:
      InputError: `settings.outscale` is out of range for the network.
    """
    check_outscale(settings.outscale, model.config.scale)
    todo = []
    for job in jobs:
        if job.error is not None:
            yield Outcome(job, "failed", error=" ".join(job.error.split()))
        elif job.target.exists() and not settings.overwrite:
            yield Outcome(job, "skipped")
        else:
            todo.append(job)
    for batch, size in _batches(todo, alone=bool(settings.strip_rows)):
        yield from _upscale_batch(model, batch, size, settings, progress)


def _batches(jobs: Sequence[Job], *, alone: bool) -> Iterator[tuple[list[Job], int]]:
    """Yields batches of jobs whose files have equal headers, and the number of images of their program.

    Batches with the same header have the same number of jobs, except for the last one, so that they share a program.
    With `alone`, each batch has one job, because strips are computed for one image.
    """
    alike: dict[Header | None, list[Job]] = defaultdict(list)
    for job in jobs:
        alike[read_header(job.source) if len(jobs) > 1 else None].append(job)
    for header, same in alike.items():
        fitting = _BATCH_PIXELS // (header.width * header.height) if header and not alone else 1
        count = math.ceil(len(same) / min(max(fitting, 1), _BATCH_IMAGES))
        length = math.ceil(len(same) / count)
        for start in range(0, len(same), length):
            yield same[start : start + length], length


def _upscale_batch(
    model: SeemoRe, jobs: Sequence[Job], size: int, settings: Settings, progress: Progress
) -> Iterator[Outcome]:
    """Reads and upscales a batch of jobs."""
    # Images with equal headers can differ, for example in their orientation.
    alike: dict[Any, list[tuple[Job, Picture]]] = defaultdict(list)
    for job in jobs:
        picture = _try(job, lambda job=job: _read(job, model.config.scale, settings))
        if isinstance(picture, Outcome):
            yield picture
        else:
            alike[picture.pixels.shape, picture.pixels.dtype].append((job, picture))
    for pairs in alike.values():
        # Sizes are rounded up to powers of two, so that few programs are compiled.
        filled = size if len(alike) == 1 else 2 ** (len(pairs) - 1).bit_length()
        yield from _upscale_alike(model, pairs, filled, settings, progress)


def _upscale_alike(
    model: SeemoRe, pairs: Sequence[tuple[Job, Picture]], size: int, settings: Settings, progress: Progress
) -> Iterator[Outcome]:
    """Upscales pictures of one shape and type in one batch, or one after the other if the batch fails."""
    first = pairs[0][0]
    notes: list[str] = []
    callbacks = Callbacks(lambda fraction: progress(first, fraction), notes.append)

    def upscaled() -> list[Upscaled]:
        images = [picture.pixels for _, picture in pairs]
        return upscale_images(
            model,
            images,
            outscale=settings.outscale,
            ensemble=settings.ensemble,
            batch_size=size,
            strip_rows=settings.strip_rows,
            callbacks=callbacks,
        )

    results = _try(first, upscaled)
    if isinstance(results, Outcome):
        if len(pairs) == 1 and size == 1:
            yield results
        else:
            for pair in pairs:
                yield from _upscale_alike(model, [pair], 1, settings, progress)
        return
    for (job, picture), result in zip(pairs, results, strict=True):
        outcome = _try(job, lambda job=job, picture=picture, result=result: _write(job, picture, result, settings))
        yield dataclasses.replace(outcome, notes=tuple(notes))


def _try(job: Job, action: Any) -> Any:
    """Returns the result of an action, or a failed `Outcome` if the input, the disk or the memory was the reason."""
    try:
        return action()
    except InputError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{job.source}: {error.strerror or error}"
    except MemoryError:
        reason = f"{job.source}: out of memory"
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = f"{job.source}: out of memory on the device"
    return Outcome(job, "failed", error=" ".join(reason.split()))


def _read(job: Job, scale: int, settings: Settings) -> Picture:
    """Reads the picture of a job, and checks that its output can be written."""
    picture = read_picture(job.source, settings.max_pixels)
    pixels = picture.pixels
    if has_alpha(pixels) and not can_hold_alpha(job.target) and _is_opaque(pixels):
        pixels = _without_alpha(pixels)
    written = _reduce(pixels[:1, :1], settings)
    if written.dtype == np.uint16 and not can_hold_16_bits(job.target):
        raise ImageError(f"{job.source}: has 16 bits, which {job.target.suffix} cannot hold; --8bit reduces them to 8")
    if has_alpha(written) and not can_hold_alpha(job.target):
        raise ImageError(
            f"{job.source}: has transparency, which {job.target.suffix} cannot hold; --flatten lays it on white"
        )
    check_image_target(job.target, written)
    height, width = (math.ceil(side * (settings.outscale or scale)) for side in pixels.shape[:2])
    check_sides(job.target, width, height)
    return dataclasses.replace(picture, pixels=pixels)


def _write(job: Job, picture: Picture, upscaled: Upscaled, settings: Settings) -> Outcome:
    """Writes the output of a job with the metadata of its input."""
    write_image(job.target, _reduce(upscaled.image, settings), picture.metadata)
    return Outcome(job, "made", _size(picture.pixels), _size(upscaled.image), routing=upscaled.routing)


def _size(image: np.ndarray) -> tuple[int, int]:
    """Returns the width and the height of an image."""
    return image.shape[1], image.shape[0]


def _reduce(image: UInt[np.ndarray, "h w *c"], settings: Settings) -> UInt[np.ndarray, "h w *d"]:
    """Flattens an image and rounds it to 8 bits, if the settings say so."""
    if settings.flatten and has_alpha(image):
        image = flatten(image)
    return to_8_bits(image) if settings.eight_bit else image


def flatten(image: UInt[np.ndarray, "h w c"]) -> UInt[np.ndarray, "h w *d"]:
    """Composes an image with white.

    Args:
      image: image with straight alpha as the last channel, (H, W, 2) for grey or (H, W, 4) for RGB.

    Returns:
      An image of the same type without alpha, (H, W) for grey or (H, W, 3) for RGB.
    """
    peak = np.iinfo(image.dtype).max
    alpha = image[..., -1:].astype(np.float32) / peak
    color = np.round(image[..., :-1] * alpha + peak * (1 - alpha)).clip(0, peak).astype(image.dtype)
    return color[..., 0] if color.shape[-1] == 1 else color


def _is_opaque(image: np.ndarray) -> bool:
    return bool((image[..., -1] == np.iinfo(image.dtype).max).all())


def _without_alpha(image: np.ndarray) -> np.ndarray:
    return image[..., 0] if image.shape[2] == 2 else image[..., :3]


def summary(outcomes: Iterable[Outcome]) -> str:
    """Returns a message with the numbers of jobs that were made, skipped and failed.

    Args:
      outcomes: results of jobs.
    """
    statuses = [outcome.status for outcome in outcomes]
    return f"{statuses.count('made')} made, {statuses.count('skipped')} skipped, {statuses.count('failed')} failed"
