"""What bfloat16 and rematerialization change: the output, memory and time, of inference and of a training step.

    python -m benchmarks.precision --output build/precision.json
    python -m benchmarks.precision --weights model.pth --data Set5 --output build/precision.json

With weights, the output is judged by PSNR on a benchmark set; without, random weights upscale random images, and the
output is compared with that of float32. Memory is what the compiled program allocates beside its arguments.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import seemore_jax as sj
from benchmarks import timing
from benchmarks.inference import image_size
from benchmarks.programs import Program, loss_function, random_images
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.evaluation.benchmark import Scores, evaluate_images

DTYPES = ("float32", "bfloat16")


def main() -> None:
    options = _options()
    model = sj.load(options.weights) if options.weights else _random_model(options.model)
    result: dict[str, Any] = {"weights": str(options.weights) if options.weights else "random"}
    print("inference")
    result["inference"] = inference(model, options)
    print("\ntraining step, without the optimizer")
    result["training"] = training(model, options)
    timing.write(options.output, result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What bfloat16 and rematerialization change.")
    parser.add_argument("--weights", type=Path, help="trained weights (default: random ones)")
    parser.add_argument("--data", type=Path, help="the benchmark set to measure PSNR on, with --weights")
    parser.add_argument("--model", choices=timing.MODELS, default="T-x4", metavar="T-x4", help="without --weights")
    parser.add_argument("--size", type=image_size, default=(320, 180), metavar="WxH", help="(default: 320x180)")
    parser.add_argument("--batch_size", type=int, default=4, help="of the step (default: %(default)s)")
    parser.add_argument("--patch_size", type=int, default=64, help="of the step, in LR pixels (default: %(default)s)")
    timing.add_arguments(parser, rounds=5)
    options = parser.parse_args()
    if (options.weights is None) != (options.data is None):
        parser.error("--weights and --data belong together")
    return options


def _random_model(name: str) -> sj.SeemoRe:
    variant, scale = name.split("-x")
    return sj.SeemoRe(sj.SeemoReConfig.variant(variant, int(scale)), rngs=nnx.Rngs(0))


def with_choices(model: sj.SeemoRe, **choices: Any) -> tuple[Any, nnx.State]:
    """Graph and parameters of the same network, computed in another way."""
    other = sj.SeemoRe.abstract(dataclasses.replace(model.config, **choices))
    return nnx.split(other)[0], nnx.split(model)[1]


def inference(model: sj.SeemoRe, options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns how the compute types compare."""
    width, height = options.size
    image = random_images(1, height, width)
    programs = {}
    for dtype in DTYPES:
        graph, parameters = with_choices(model, compute_dtype=dtype)
        programs[dtype] = Program.compile(
            lambda p, lr, g=graph: nnx.merge(g, p)(lr.astype(jnp.float32) / 255), parameters, image
        )
    outputs = {name: jax.device_get(program.run()) for name, program in programs.items()}
    quality = {dtype: _deviation(output, outputs["float32"]) for dtype, output in outputs.items()}
    header = ["largest difference", "PSNR to float32"]
    cells = {dtype: [f"{q['largest_difference']:.1e}", _decibels(q["psnr_to_float32"])] for dtype, q in quality.items()}
    if options.weights:
        header.append("PSNR on the set")
        for dtype in DTYPES:
            quality[dtype]["psnr"] = set_psnr(model, compute_dtype=dtype, folder=options.data)
            cells[dtype].append(f"{quality[dtype]['psnr']:.3f}")
    return _report(programs, quality, header, cells, options.rounds)


def _deviation(output: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Largest difference, in full scale, and PSNR in dB, of images with values in [0, 1], not clipped."""
    difference = np.abs(output - reference).astype(np.float64)
    mean_square = float(np.mean(difference**2))
    return {
        "largest_difference": float(difference.max()),
        "psnr_to_float32": -10 * np.log10(mean_square) if mean_square else float("inf"),
    }


def _decibels(value: float) -> str:
    return "same" if value == float("inf") else f"{value:.1f}"


def set_psnr(model: sj.SeemoRe, *, compute_dtype: str, folder: Path, limit: int | None = None) -> float:
    """Mean PSNR over the (first) images of a set, by the protocol of `eval.py`."""
    model = nnx.merge(*with_choices(model, compute_dtype=compute_dtype))
    scale = model.config.scale
    (image_set,) = find_image_sets([folder], scale)
    images = evaluate_images(image_set.pairs[:limit], scale, lambda lr: sj.upscale(model, lr))
    return Scores.mean([image.scores for image in images]).psnr


def training(model: sj.SeemoRe, options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns how compute types and rematerialization compare in a step's loss and gradients."""
    lr = random_images(options.batch_size, options.patch_size, options.patch_size)
    sides = [model.config.scale * options.patch_size] * 2
    hr = random_images(options.batch_size, *sides)
    programs = {}
    for dtype in DTYPES:
        for rematerialize in (False, True):
            graph, parameters = with_choices(model, compute_dtype=dtype, rematerialize=rematerialize)
            name = f"{dtype}{', rematerialized' if rematerialize else ''}"
            programs[name] = Program.compile(jax.value_and_grad(loss_function(graph)), parameters, lr, hr)
    outputs = {name: jax.device_get(program.run()) for name, program in programs.items()}
    quality = {name: _gradient_deviation(output, outputs["float32"]) for name, output in outputs.items()}
    cells = {name: [f"{value:.1e}" for value in q.values()] for name, q in quality.items()}
    return _report(programs, quality, ["loss, relative", "gradient, relative"], cells, options.rounds)


def _gradient_deviation(output: Any, reference: Any) -> dict[str, float]:
    """Differences of the loss and, in the 2-norm, of the gradient, relative to those of the reference."""
    (loss, gradient), (expected_loss, expected) = output, reference
    vector, expected_vector = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(g)]) for g in (gradient, expected))
    return {
        "loss_difference": float(abs(loss - expected_loss) / expected_loss),
        "gradient_difference": float(np.linalg.norm(vector - expected_vector) / np.linalg.norm(expected_vector)),
    }


def _report(
    programs: dict[str, Program],
    quality: dict[str, dict[str, float]],
    header: list[str],
    cells: dict[str, list[str]],
    rounds: int,
) -> dict[str, Any]:
    """Times the programs in turns, prints the table and returns its figures."""
    timings = timing.round_robin({name: program.run for name, program in programs.items()}, rounds=rounds)
    rows = [
        [
            name,
            *cells[name],
            f"{1e3 * timings.median(name):.0f}",
            f"{timings.ratio(name, 'float32'):.2f}",
            f"{program.bytes / 1e6:.0f}",
        ]
        for name, program in programs.items()
    ]
    print(timing.table(["", *header, "median ms", "time / float32", "MB"], rows), flush=True)
    return {
        name: {**quality[name], "bytes": program.bytes, "seconds": timings.seconds[name]}
        for name, program in programs.items()
    }


if __name__ == "__main__":
    main()
