"""Reports an evaluation: writes SR images, `results.json` and a figure of crops, and formats tables of scores."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.ndimage
from matplotlib.figure import Figure
from tqdm import tqdm

from seemore_jax.data.image_pairs import ImagePair
from seemore_jax.data.image_sets import ImageSet
from seemore_jax.data.image_writing import write_image
from seemore_jax.data.images import read_image, to_rgb8
from seemore_jax.evaluation.benchmark import BICUBIC, EvaluatedImage, Scores, Upscaler, evaluate_image
from seemore_jax.system.device_map import map_over_devices
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import atomic_write

_CROP = 96  # the side of a crop in the figure, in HR pixels
_ROWS = 6  # the largest number of images in the figure


@dataclasses.dataclass(frozen=True)
class SetScores:
    """The scores of one image set.

    Attributes:
      images: the scores by the name of the image.
      bicubic_images: the scores of bicubic upscaling by the name of the image.
    """

    images: dict[str, Scores]
    bicubic_images: dict[str, Scores]

    @property
    def mean(self) -> Scores:
        """Returns the mean scores of the set."""
        return Scores.mean(list(self.images.values()))

    @property
    def bicubic(self) -> Scores:
        """Returns the mean scores of bicubic upscaling."""
        return Scores.mean(list(self.bicubic_images.values()))


@dataclasses.dataclass(frozen=True)
class Crop:
    """A crop of one image in several versions.

    Attributes:
      caption: the text beside the crop in the figure.
      versions: the crops by the name of the version, uint8 (H, W, 3), all of the same shape.
    """

    caption: str
    versions: dict[str, np.ndarray]


def evaluate_to_folder(
    sets: Sequence[ImageSet], scale: int, upscaler: Upscaler, method: str, weights: str, output: Path
) -> dict[str, SetScores]:
    """Evaluates an upscaler on image sets, and writes the SR images, `results.json` and `comparison.png`.

    In a run with several processes, all processes call this function together and get the same scores. Each process
    upscales and writes its share of the images. The first process writes the other files, and shows a progress bar.

    Args:
      sets: the image sets.
      scale: the factor of the upscaling, which is also the shave of the metrics.
      upscaler: the function that upscales LR.
      method: the name of the upscaler in the figure.
      weights: the name of the weights in `results.json`.
      output: the folder for the files, which all processes see; it is created if it is missing. The SR images become
        SET/NAME.png.

    Returns:
      The scores by the name of the set.

    Raises:
      InputError: there are no images, an image cannot be used, `output` cannot be written, or an SR image would
        overwrite an image of the sets.
    """
    if not sets:
        raise InputError("no images to evaluate on")
    _check_no_overwriting(sets, output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be made: {error.strerror or error}") from error
    items = [(image_set.name, pair) for image_set in sets for pair in image_set.pairs]

    def measure(item: int) -> tuple[float, ...]:
        set_name, pair = items[item]
        image = evaluate_image(pair, scale, upscaler)
        write_image(_sr_path(output, set_name, image.name), image.sr)
        return *dataclasses.astuple(image.scores), *dataclasses.astuple(image.bicubic_scores)

    is_first = jax.process_index() == 0
    figures = {}
    with tqdm(total=len(items), unit="image", desc="evaluating", disable=None if is_first else True) as progress:
        for item, found in map_over_devices(measure, len(items)):
            figures[item] = found
            progress.update()
    results = {image_set.name: SetScores({}, {}) for image_set in sets}
    for item, (set_name, pair) in enumerate(items):
        psnr, ssim, *bicubic = figures[item]
        results[set_name].images[pair.name] = Scores(psnr, ssim)
        results[set_name].bicubic_images[pair.name] = Scores(*bicubic)
    if is_first:
        with atomic_write(output / "results.json") as temporary:
            temporary.write_text(json.dumps(to_json(results, scale, weights), indent=2) + "\n")
        crops = [_crop(pair, scale, _sr_path(output, name, pair.name), method) for name, pair in items[:_ROWS]]
        with atomic_write(output / "comparison.png") as temporary:
            comparison_figure(crops).savefig(temporary, dpi=100)
    return results


def _crop(pair: ImagePair, scale: int, sr_path: Path, method: str) -> Crop:
    """Crops an image whose SR version is in the output folder, where any process may have written it."""
    sr = to_rgb8(read_image(sr_path))
    return hardest_crop(evaluate_image(pair, scale, lambda lr: sr), method)


def _sr_path(output: Path, set_name: str, image_name: str) -> Path:
    return output / set_name / f"{image_name}.png"


def _check_no_overwriting(sets: Sequence[ImageSet], output: Path) -> None:
    """Raises InputError if an SR image would overwrite an image of the sets."""
    files = [file for image_set in sets for pair in image_set.pairs for file in (pair.hr, pair.lr)]
    sources = {file.resolve() for file in files if isinstance(file, Path)}
    for image_set in sets:
        for pair in image_set.pairs:
            target = _sr_path(output, image_set.name, pair.name)
            if target.resolve() in sources:
                raise InputError(f"{output}: {target} would overwrite an image of the data; choose another output")


def to_json(results: dict[str, SetScores], scale: int, weights: str) -> dict[str, Any]:
    """Returns the content of `results.json`. The scores are not rounded; an infinite PSNR becomes null.

    Args:
      results: the scores by the name of the set.
      scale: the factor of the upscaling.
      weights: the name of the weights.
    """
    return {
        "scale": scale,
        "weights": weights,
        "sets": {
            name: {
                **_scores_json(scores.mean),
                "bicubic": _scores_json(scores.bicubic),
                "images": {image: _scores_json(s) for image, s in scores.images.items()},
            }
            for name, scores in results.items()
        },
    }


def _scores_json(scores: Scores) -> dict[str, float | None]:
    return {"psnr": scores.psnr if math.isfinite(scores.psnr) else None, "ssim": scores.ssim}


def set_table(results: dict[str, SetScores], method: str) -> str:
    """Formats the mean scores of the sets: a row for bicubic and a row for the method.

    Args:
      results: the scores by the name of the set.
      method: the name of the method.

    Returns:
      The table as text, with a column for each set.
    """
    means = {name: scores.mean for name, scores in results.items()}
    return table({BICUBIC: {name: scores.bicubic for name, scores in results.items()}, method: means})


def image_table(scores: SetScores, method: str) -> str:
    """Formats the scores of the images in one set: a row for bicubic and a row for the method.

    Args:
      scores: the scores of the set.
      method: the name of the method.

    Returns:
      The table as text, with a column for each image.
    """
    return table({BICUBIC: scores.bicubic_images, method: scores.images})


def table(rows: dict[str, dict[str, Scores]]) -> str:
    """Formats scores as a text table with PSNR / SSIM in each cell.

    Args:
      rows: `rows[row][column]` are the scores of a cell. All rows have the same columns.

    Returns:
      The lines of the table, without a newline at the end.
    """
    columns = list(next(iter(rows.values())))
    cells = {row: [f"{s.psnr:.2f} / {s.ssim:.4f}" for s in by_column.values()] for row, by_column in rows.items()}
    first = max(map(len, rows))
    widths = [max(len(column), *(len(line[i]) for line in cells.values())) for i, column in enumerate(columns)]
    header = [column.rjust(width) for column, width in zip(columns, widths, strict=True)]
    lines = ["  ".join([" " * first, *header])]
    for row, line in cells.items():
        lines.append("  ".join([row.ljust(first), *(c.rjust(w) for c, w in zip(line, widths, strict=True))]))
    return "\n".join(lines)


def hardest_crop(image: EvaluatedImage, method: str) -> Crop:
    """Crops an image where bicubic upscaling has the largest error, because methods differ visibly there.

    Args:
      image: the evaluated image.
      method: the name of the method in the caption.

    Returns:
      Crops of the HR image, of bicubic upscaling and of the SR image, of at most 96×96 pixels.
    """
    squared_error = ((image.hr.astype(np.float32) - image.bicubic) ** 2).sum(axis=-1)
    side = min(_CROP, *squared_error.shape)
    # The filter centres its window at each pixel. Only windows inside the image are kept.
    error_of_window = scipy.ndimage.uniform_filter(squared_error, side)[side // 2 :, side // 2 :]
    error_of_window = error_of_window[: image.hr.shape[0] - side + 1, : image.hr.shape[1] - side + 1]
    top, left = np.unravel_index(np.argmax(error_of_window), error_of_window.shape)
    window = slice(top, top + side), slice(left, left + side)
    caption = f"{image.name}\nbicubic {image.bicubic_scores.psnr:.2f} dB"
    if method != BICUBIC:
        caption += f"\n{method} {image.scores.psnr:.2f} dB"
    return Crop(caption, {"HR": image.hr[window], BICUBIC: image.bicubic[window], method: image.sr[window]})


def comparison_figure(crops: Sequence[Crop]) -> Figure:
    """Draws crops with one row for each image and one column for each version.

    Args:
      crops: at least one crop, all with the same versions.

    Returns:
      The figure, which is not saved yet.
    """
    titles = list(crops[0].versions)
    figure = Figure(figsize=(2.4 * len(titles), 2.4 * len(crops) + 0.4), layout="constrained")
    axes = figure.subplots(len(crops), len(titles), squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    for row, crop in zip(axes, crops, strict=True):
        row[0].set_ylabel(crop.caption)
        for axis, version in zip(row, crop.versions.values(), strict=True):
            axis.imshow(version, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    return figure
