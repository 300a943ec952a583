"""Upscales one uploaded file, and makes the files that the page shows."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from seemore_jax.data.images import has_alpha, read_picture, to_rgb8
from seemore_jax.evaluation.routes import Routes, routes_figure
from seemore_jax.inference.folder import FileCallbacks, Settings, flatten, upscale_files
from seemore_jax.inference.jobs import Source, name_jobs
from seemore_jax.network import Routing, SeemoRe
from seemore_jax.system.errors import InputError
from seemore_jax.web.tiles import Tiles, write_tiles

# The fraction of the time that upscaling takes; the rest goes into the tiles.
_UPSCALING = 0.9
_THUMBNAIL = 480  # the largest side of the image beside the plot of the experts


@dataclasses.dataclass(frozen=True)
class Result:
    """The result for one image, as files and values that the page shows.

    Attributes:
      target: the file with the upscaled image, NAME_x4.png for a factor of 4.
      before: width and height of the input in pixels.
      after: width and height of `target` in pixels.
      tiles: the images for the comparison.
      experts: the file with the plot of the experts.
      seconds: the time for reading, upscaling and writing all files, in seconds.
      notes: more information for the user, such as a choice of experts that is nearly a tie.
    """

    target: Path
    before: tuple[int, int]
    after: tuple[int, int]
    tiles: Tiles
    experts: Path
    seconds: float
    notes: tuple[str, ...] = ()


def upscale_upload(
    model: SeemoRe,
    path: Path,
    folder: Path,
    max_pixels: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Result:
    """Upscales an image file like the command `upscale`, and makes the images for the comparison.

    Args:
      model: the model.
      path: the uploaded file.
      folder: the folder for the results.
      max_pixels: the largest number of pixels. A file that claims more is refused.
      progress: function that is called with the fraction that is done, from 0 to 1. It may raise to stop the work.

    Returns:
      The files and values that the page shows.

    Raises:
      InputError: the file cannot be used. The message is that of the command, with the name of the file in the server's
        folders.
    """
    start = time.perf_counter()
    jobs = name_jobs([Source(path)], folder, f"_x{model.config.scale}", ".png")
    before = read_picture(path, max_pixels)  # raises an error for animations and documents of several pages
    callbacks = FileCallbacks(lambda job, fraction: progress(_UPSCALING * fraction))
    (outcome,) = upscale_files(model, jobs, Settings(max_pixels=max_pixels), callbacks)
    if outcome.before is None or outcome.after is None or outcome.routing is None:
        raise InputError(str(outcome.error))
    progress(_UPSCALING)
    target = outcome.job.target
    tiles = write_tiles(
        folder, before, read_picture(target), lambda fraction: progress(_UPSCALING + (1 - _UPSCALING) * fraction)
    )
    experts = folder / "experts.png"
    _plot_experts(model, before.pixels, outcome.routing, experts)
    seconds = time.perf_counter() - start
    return Result(target, outcome.before, outcome.after, tiles, experts, seconds, outcome.notes)


def _plot_experts(model: SeemoRe, pixels: np.ndarray, routing: Routing, file: Path) -> None:
    """Plots the experts that the layers chose, beside a small version of the image."""
    image = Image.fromarray(to_rgb8(flatten(pixels) if has_alpha(pixels) else pixels))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    routes_figure([Routes.of("", np.asarray(image), routing)], model.config.ranks).savefig(file, dpi=200)
