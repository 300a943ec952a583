"""Upscaling of many image files: in batches of one size, each on its own feet.

A file that cannot be read, upscaled or written is reported, and the others go on. Whatever interrupts the run, each
output is whole or absent, and the next run makes those that are absent.
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

# Of a batch, in LR pixels and in images: enough to keep a device busy, little beside what one large image takes.
_BATCH_PIXELS = 2**18
_BATCH_IMAGES = 16

# A job, and the share of it that is done.
Progress = Callable[[Job, float], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How files are upscaled.

    Attributes:
      outscale: another factor than the model's.
      ensemble: average over eight flips and transposes.
      flatten: lay transparent images on white.
      eight_bit: write 16-bit images in 8 bits.
      overwrite: make outputs again that exist.
      strip_rows: rows of the strips in which large images are upscaled; 0: whole images; None: by their size.
      max_pixels: refuse files that claim more.
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
    """What became of a job.

    Attributes:
      job: the job.
      status: whether the output was made, was there already, or failed.
      before: width and height of the input in pixels, if it was read.
      after: width and height of the output in pixels, if it was made.
      error: what went wrong, in one line.
      notes: what else there is to know, such as a choice of experts that is nearly a tie.
      routing: what the routers chose, if it was made (a `Routing` of one image).
    """

    job: Job
    status: Literal["made", "skipped", "failed"]
    before: tuple[int, int] | None = None
    after: tuple[int, int] | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    routing: Routing | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what does not apply."""
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
    model: SeemoRe, jobs: Sequence[Job], settings: Settings, progress: Progress = lambda job, share: None
) -> Iterator[Outcome]:
    """Does the jobs; yields what became of each as soon as it is known, not in their order.

    `progress` is called with a job and the share of it that is done, for large images.

    Raises:
      InputError: `settings.outscale` does not fit the model.
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
    """Jobs whose files say that they are alike, and how many images their program takes at once.

    With `alone` that is one: strips are of one image.

    Of one kind, all batches are equally large but for the last, so that they share a program.
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
    # Headers do not tell everything, such as the orientation.
    alike: dict[Any, list[tuple[Job, Picture]]] = defaultdict(list)
    for job in jobs:
        picture = _try(job, lambda job=job: _read(job, model.config.scale, settings))
        if isinstance(picture, Outcome):
            yield picture
        else:
            alike[picture.pixels.shape, picture.pixels.dtype].append((job, picture))
    for pairs in alike.values():
        # Powers of two, so that mixtures need few programs.
        filled = size if len(alike) == 1 else 2 ** (len(pairs) - 1).bit_length()
        yield from _upscale_alike(model, pairs, filled, settings, progress)


def _upscale_alike(
    model: SeemoRe, pairs: Sequence[tuple[Job, Picture]], size: int, settings: Settings, progress: Progress
) -> Iterator[Outcome]:
    """Upscales pictures of one shape and type together; one by one where memory does not suffice for that."""

    first = pairs[0][0]
    notes: list[str] = []
    callbacks = Callbacks(lambda share: progress(first, share), notes.append)

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
    """What the action returns, or the outcome of a job for which it failed, for reasons outside this program."""
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
    """The picture of a job, after checking that its output can be written as it will be."""
    picture = read_picture(job.source, settings.max_pixels)
    pixels = picture.pixels
    if has_alpha(pixels) and not can_hold_alpha(job.target) and _is_opaque(pixels):
        pixels = _without_alpha(pixels)  # nothing is lost
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
    write_image(job.target, _reduce(upscaled.image, settings), picture.metadata)
    return Outcome(job, "made", _size(picture.pixels), _size(upscaled.image), routing=upscaled.routing)


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _reduce(image: UInt[np.ndarray, "h w *c"], settings: Settings) -> UInt[np.ndarray, "h w *d"]:
    """Flattens and rounds to 8 bits, as far as the settings ask for it."""
    if settings.flatten and has_alpha(image):
        image = flatten(image)
    return to_8_bits(image) if settings.eight_bit else image


def flatten(image: UInt[np.ndarray, "h w c"]) -> UInt[np.ndarray, "h w *d"]:
    """Lays an image with straight alpha, (H, W, 2) grey or (H, W, 4) RGB, on white; without alpha afterwards."""
    peak = np.iinfo(image.dtype).max
    alpha = image[..., -1:].astype(np.float32) / peak
    color = np.round(image[..., :-1] * alpha + peak * (1 - alpha)).clip(0, peak).astype(image.dtype)
    return color[..., 0] if color.shape[-1] == 1 else color


def _is_opaque(image: np.ndarray) -> bool:
    return bool((image[..., -1] == np.iinfo(image.dtype).max).all())


def _without_alpha(image: np.ndarray) -> np.ndarray:
    return image[..., 0] if image.shape[2] == 2 else image[..., :3]


def summary(outcomes: Iterable[Outcome]) -> str:
    """How many were made, skipped and failed."""
    statuses = [outcome.status for outcome in outcomes]
    return f"{statuses.count('made')} made, {statuses.count('skipped')} skipped, {statuses.count('failed')} failed"
