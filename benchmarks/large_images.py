"""Compares large images in strips with the whole image at once: pixels, memory and time.

    python -m benchmarks.large_images --images FOLDER --output FILE.json

FOLDER holds photographs of some 9 million pixels. The first one is upscaled as it is (×2, T), all are shrunk by 4 and
upscaled again (×4; T with its bundled weights, B and L with random ones), and the first one is cut to odd sizes. Each
run has a process of its own, so that the peak memory is that of the run; whole and strips take turns. Exits with
status 1 if a pixel differs by more than 1 of 255.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import seemore_jax as sj
from benchmarks.harness import networks, options, processes, records, tables
from seemore_jax.data.images import SUFFIXES, read_image, to_rgb8
from seemore_jax.system.compilation_cache import use_compilation_cache

_BOUND = 1  # of 255


class Case(NamedTuple):
    """Describes what is upscaled.

    Attributes:
      model: a name such as T-x2; a variant without bundled weights gets random ones.
      image: a file name.
      shrink: the factor by which the image is made smaller first.
      size: height and width to which the image is then cut; 0 keeps the whole side.
      strip_rows: rows of a strip; None chooses the default.
    """

    model: str
    image: str
    shrink: int = 1
    size: tuple[int, int] = (0, 0)
    strip_rows: int | None = None


def main() -> None:
    chosen = _options()
    use_compilation_cache()
    if chosen.child:
        _child(Case(*json.loads(chosen.child)), chosen.images, chosen.strip_rows, chosen.result)
        return
    names = sorted(path.name for path in chosen.images.iterdir() if path.suffix.lower() in SUFFIXES)
    rows = [_compare(case, chosen) for case in _cases(names)]
    print(_table(rows))
    differ = max(row["largest_difference"] for row in rows) > _BOUND
    records.finish(chosen.output, {"rows": rows}, ["strips differ from the whole image"] if differ else [])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compares large images in strips with the whole at once.")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="folder of large photographs")
    options.add_rounds(parser, default=3)
    options.add_output(parser)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--strip_rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _cases(names: list[str]) -> list[Case]:
    first = names[0]
    shrunk = [Case(model, name, shrink=4, strip_rows=120) for model in ("T-x4", "B-x4", "L-x4") for name in names]
    odd = [Case("T-x2", first, size=(1201, 1999)), Case("T-x3", first, size=(333, 517), strip_rows=37)]
    return [Case("T-x2", first), *shrunk, *odd, Case("L-x2", first, size=(251, 130), strip_rows=8)]


def _compare(case: Case, chosen: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of a case; the whole image and strips take turns."""
    runs: dict[str, list[dict[str, float]]] = {"whole": [], "strips": []}
    with tempfile.TemporaryDirectory() as name:
        files = {way: Path(name) / f"{way}.npy" for way in runs}
        for _ in range(chosen.rounds):
            for way, strip_rows in (("whole", 0), ("strips", case.strip_rows)):
                runs[way].append(_run_child(case, chosen.images, strip_rows, files[way]))
        whole, strips = (np.load(file, mmap_mode="r") for file in files.values())
        difference = [np.abs(a.astype(np.int16) - b) for a, b in zip(whole, strips, strict=True)]
    result = {
        way: {key: statistics.median(run[key] for run in found) for key in found[0]} for way, found in runs.items()
    }
    return {
        **case._asdict(),
        **result,
        "pixels": int(runs["whole"][0]["pixels"]),
        "largest_difference": int(max(row.max() for row in difference)),
        "share_that_differs": float(np.mean([(row > 0).mean() for row in difference])),
        "ratio": result["strips"]["seconds"] / result["whole"]["seconds"],
    }


def _run_child(case: Case, images: Path, strip_rows: int | None, result: Path) -> dict[str, float]:
    arguments = ["--images", str(images), "--child", json.dumps(case), "--result", str(result)]
    arguments += [] if strip_rows is None else ["--strip_rows", str(strip_rows)]
    return processes.run_child("benchmarks.large_images", *arguments)


def _child(case: Case, images: Path, strip_rows: int | None, result: Path) -> None:
    """Upscales the image of a case, saves the result, and prints the figures for the parent process."""
    image = to_rgb8(read_image(images / case.image))
    if case.shrink > 1:
        image = sj.imresize(image, 1 / case.shrink)
    height, width = case.size
    image = image[: height or None, : width or None]
    model = _model(case.model)
    start = time.perf_counter()
    upscaled = sj.upscale(model, image, strip_rows=strip_rows)
    seconds = time.perf_counter() - start
    np.save(result, upscaled)
    gigabytes = processes.largest_memory() / 1e9
    print(json.dumps({"seconds": seconds, "gigabytes": gigabytes, "pixels": image[..., 0].size}))


def _model(name: str) -> sj.SeemoRe:
    if name.startswith("T-"):
        return sj.load(name)
    model = networks.random_network(networks.config_of(name))
    for group in model.groups:  # With random weights, experts are nearly tied: larger weights decide the choice.
        group.rank_modulating.mixture_block.mixture.router.linear.kernel[...] *= 100
    return model


def _table(rows: list[dict[str, Any]]) -> str:
    header = ["model", "image", "Mpixels", "whole s", "GB", "strips s", "GB", "time ratio"]
    header += ["largest difference", "that differ"]
    return tables.compact(header, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    note = " cut" if any(row["size"]) else f" 1/{row['shrink']}" if row["shrink"] > 1 else ""
    whole, strips = row["whole"], row["strips"]
    return [
        *(row["model"], f"{row['image']}{note}", f"{row['pixels'] / 1e6:.2f}"),
        *(f"{whole['seconds']:.1f}", f"{whole['gigabytes']:.2f}"),
        *(f"{strips['seconds']:.1f}", f"{strips['gigabytes']:.2f}", f"{row['ratio']:.2f}"),
        *(f"{row['largest_difference']}", f"{row['share_that_differs']:.4%}"),
    ]


if __name__ == "__main__":
    main()
