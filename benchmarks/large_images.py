"""Large images in strips against the whole at once: the same pixels, in how much memory and time?

    python -m benchmarks.large_images --images FOLDER --output FILE.json

FOLDER holds photographs of some 9 million pixels. The first is upscaled as it is (×2, T), all are shrunk by 4 and
upscaled again (×4; T with its bundled weights, B and L with random ones), and the first is cut to odd sizes. Each run
is a process of its own, so that its peak memory is that of the run; whole and strips take turns. Exits with status 1
if a pixel differs by more than 1 of 255.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

import seemore_jax as sj
from benchmarks import timing
from seemore_jax.data.images import SUFFIXES, read_image, to_rgb8
from seemore_jax.system.compilation_cache import use_compilation_cache

_BOUND = 1  # of 255


class Case(NamedTuple):
    """What is upscaled.

    Attributes:
      model: T-x2 and so on; those without bundled weights get random ones.
      image: file name.
      shrink: the image is made smaller by this factor first.
      size: height and width that it is then cut to; 0 leaves it whole.
      strip_rows: rows of a strip; None: as they come by default.
    """

    model: str
    image: str
    shrink: int = 1
    size: tuple[int, int] = (0, 0)
    strip_rows: int | None = None


def main() -> None:
    options = _options()
    use_compilation_cache()
    if options.child:
        _child(Case(*json.loads(options.child)), options.images, options.strip_rows, options.result)
        return
    names = sorted(path.name for path in options.images.iterdir() if path.suffix.lower() in SUFFIXES)
    rows = [_compare(case, options) for case in _cases(names)]
    print(_markdown(rows))
    timing.write(options.output, {"rows": rows})
    if max(row["largest_difference"] for row in rows) > _BOUND:
        sys.exit("strips differ from the whole image")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compares large images in strips with the whole at once.")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="of large photographs")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--strip_rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _cases(names: list[str]) -> list[Case]:
    first = names[0]
    shrunk = [Case(model, name, shrink=4, strip_rows=120) for model in ("T-x4", "B-x4", "L-x4") for name in names]
    odd = [Case("T-x2", first, size=(1201, 1999)), Case("T-x3", first, size=(333, 517), strip_rows=37)]
    return [Case("T-x2", first), *shrunk, *odd, Case("L-x2", first, size=(251, 130), strip_rows=8)]


def _compare(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of a case; whole and strips take turns."""
    runs: dict[str, list[dict[str, float]]] = {"whole": [], "strips": []}
    with tempfile.TemporaryDirectory() as name:
        files = {way: Path(name) / f"{way}.npy" for way in runs}
        for _ in range(options.rounds):
            for way, strip_rows in (("whole", 0), ("strips", case.strip_rows)):
                runs[way].append(_run_child(case, options.images, strip_rows, files[way]))
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
    command = [sys.executable, "-m", "benchmarks.large_images", "--images", str(images), "--child", json.dumps(case)]
    command += ["--result", str(result)] + ([] if strip_rows is None else ["--strip_rows", str(strip_rows)])
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _child(case: Case, images: Path, strip_rows: int | None, result: Path) -> None:
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
    print(json.dumps({"seconds": seconds, "gigabytes": _peak_memory() / 1e9, "pixels": image[..., 0].size}))


def _model(name: str) -> sj.SeemoRe:
    variant, scale = name.split("-x")
    if variant == "T":
        return sj.load(name)
    model = sj.SeemoRe(sj.SeemoReConfig.variant(variant, int(scale)), rngs=nnx.Rngs(0))
    for group in model.groups:  # decided routers: random weights are near a tie
        group.rank_modulating.mixture_block.mixture.router.linear.kernel[...] *= 100
    return model


def _peak_memory() -> int:
    """Bytes; of Linux's own count, which the parent's memory at the fork does not enter."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | image | Mpixels | whole s | GB | strips s | GB | time ratio | largest difference | that differ |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = " cut" if any(row["size"]) else f" 1/{row['shrink']}" if row["shrink"] > 1 else ""
        whole, strips = row["whole"], row["strips"]
        lines.append(
            f"| {row['model']} | {row['image']}{size} | {row['pixels'] / 1e6:.2f} | {whole['seconds']:.1f} "
            f"| {whole['gigabytes']:.2f} | {strips['seconds']:.1f} | {strips['gigabytes']:.2f} | {row['ratio']:.2f} "
            f"| {row['largest_difference']} | {row['share_that_differs']:.4%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
