"""Measures weights on JPEG files of several qualities: PSNR over bicubic, and how visible the 8×8 blocks are.

    python -m benchmarks.jpeg --data data/kodak --scale 4

The last line of the table is the automatic choice of `seemore-jax upscale`: for each quality, the figures of the
weights that it chooses. Each image is reduced bicubically, stored by libjpeg with 4:2:0, and upscaled. The border
gradient is the mean difference of neighbouring SR pixels across the borders of the 8×8 blocks, divided by the mean
difference elsewhere: it is 1 in an image without visible blocks.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

import seemore_jax as sj
from benchmarks.harness import options, records, tables
from seemore_jax.data.degradation import FixedDegradation
from seemore_jax.data.image_sets import ImageSet, find_image_sets
from seemore_jax.evaluation.benchmark import BICUBIC, Upscaler, bicubic_upscaler
from seemore_jax.evaluation.metrics import psnr
from seemore_jax.inference.model_choice import choose_by_quality

QUALITIES = ("bicubic", "jpeg:95", "jpeg:85", "jpeg:75", "jpeg:50", "jpeg:30")
_AUTOMATIC = "automatic choice"
_BLOCK = 8
_LUMA = np.array([0.299, 0.587, 0.114])


def main() -> None:
    chosen = _options()
    start = time.perf_counter()
    scale = chosen.scale
    names = {f"T-x{scale}": chosen.model or f"T-x{scale}", f"T-x{scale}-jpeg": chosen.robust or f"T-x{scale}-jpeg"}
    models = {name: sj.load(source) for name, source in names.items()}
    if wrong := [names[name] for name, model in models.items() if model.config.scale != scale]:
        raise SystemExit(f"error: {', '.join(wrong)}: not for ×{scale}")
    upscalers = {BICUBIC: bicubic_upscaler(scale)} | {name: _upscaler(model) for name, model in models.items()}
    pairs = [pair for one in find_image_sets([chosen.data], scale) for pair in one.pairs][: chosen.images]
    found = {}
    for text in tqdm(chosen.degradations, unit="quality", disable=None):
        degradation = FixedDegradation.of(text)
        found[text] = _measure(upscalers, ImageSet(text, tuple(pairs)).degraded(degradation), scale)
        found[text][_AUTOMATIC] = found[text][choose_by_quality(degradation.quality, scale).model]
    print(f"PSNR (dB) of the luma / border gradient, ×{scale}, {len(pairs)} images of {chosen.data.name}\n")
    rows = [[name, *(_cell(*found[each][name]) for each in chosen.degradations)] for name in (*upscalers, _AUTOMATIC)]
    print(tables.compact(["LR", *chosen.degradations], rows))
    print(f"\n{records.footer(time.perf_counter() - start)}")
    records.finish(chosen.output, {"scale": scale, "images": len(pairs), "results": found})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures weights on JPEG files of several qualities.")
    parser.add_argument("--scale", type=int, required=True, choices=(2, 4))
    parser.add_argument("--model", help="other weights than the bundled ones for clean images")
    parser.add_argument("--robust", metavar="MODEL", help="other weights than the bundled ones for JPEG files")
    parser.add_argument("--data", type=Path, required=True, help="a folder of HR images, such as Kodak")
    parser.add_argument("--images", type=int, help="how many of them (default: all)")
    parser.add_argument(
        "--degradations", nargs="+", default=QUALITIES, metavar="D", help="bicubic or jpeg:QUALITY (default: all six)"
    )
    options.add_output(parser)
    return parser.parse_args()


def _cell(decibel: float, border: float) -> str:
    return f"{decibel:.2f} / {border:.3f}"


def _upscaler(model: sj.SeemoRe) -> Upscaler:
    return lambda lr: sj.upscale(model, lr)


def _measure(upscalers: dict[str, Upscaler], images: ImageSet, scale: int) -> dict[str, tuple[float, float]]:
    """Returns, for each upscaler, the mean PSNR in dB and the mean border gradient."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in upscalers}
    for pair in images.pairs:
        lr, hr = pair.read(scale)
        for name, upscaler in upscalers.items():
            sr = upscaler(lr)
            figures[name].append((psnr(sr, hr, shave=scale), border_gradient(sr, _BLOCK * scale)))
    means = {name: np.mean(found, axis=0) for name, found in figures.items()}
    return {name: (float(mean[0]), float(mean[1])) for name, mean in means.items()}


def border_gradient(image: UInt8[np.ndarray, "h w 3"], period: int) -> float:
    """Returns the mean difference of neighbouring pixels across block borders, divided by that of all others.

    Args:
      image: RGB.
      period: side of a block in pixels of this image.
    """
    values = image.astype(np.float64) @ _LUMA
    at_borders, elsewhere = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(values, axis=axis)).mean(axis=1 - axis)
        is_border = np.arange(1, len(steps) + 1) % period == 0
        at_borders.append(steps[is_border])
        elsewhere.append(steps[~is_border])
    return float(np.concatenate(at_borders).mean() / np.concatenate(elsewhere).mean())


if __name__ == "__main__":
    main()
