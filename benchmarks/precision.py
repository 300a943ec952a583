"""Measures what bfloat16 and rematerialization change in inference and in a training step: output, memory and time.

    python -m benchmarks.precision --output build/precision.json
    python -m benchmarks.precision --weights model.pth --data Set5 --output build/precision.json

With weights, the output is judged by its PSNR on a benchmark set. Without, random weights upscale random images, and
the output is compared with that of float32. Memory is what the compiled program allocates beside its arguments.
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
from benchmarks.harness import networks, options, records, tables, timing
from benchmarks.harness.networks import Program, loss_function, random_images
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.evaluation.benchmark import Scores, evaluate_images

DTYPES = ("float32", "bfloat16")


def main() -> None:
    chosen = _options()
    model = sj.load(chosen.weights) if chosen.weights else networks.random_network(networks.config_of(chosen.model))
    result: dict[str, Any] = {"weights": str(chosen.weights) if chosen.weights else "random"}
    print("inference")
    result["inference"] = inference(model, chosen)
    print("\ntraining step, without the optimizer")
    result["training"] = training(model, chosen)
    records.finish(chosen.output, result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures what bfloat16 and rematerialization change.")
    parser.add_argument("--weights", type=Path, help="trained weights (default: random ones)")
    parser.add_argument("--data", type=Path, help="the benchmark set on which PSNR is measured, with --weights")
    options.add_model(parser, note=" of the random weights")
    parser.add_argument(
        "--size", type=options.image_size, default=(320, 180), metavar="WxH", help="LR size (default: 320x180)"
    )
    options.add_training_batch(parser)
    options.add_rounds(parser, default=5)
    options.add_output(parser)
    chosen = parser.parse_args()
    if (chosen.weights is None) != (chosen.data is None):
        parser.error("--weights and --data must be given together")
    return chosen


def with_choices(model: sj.SeemoRe, **choices: Any) -> tuple[Any, nnx.State]:
    """Returns the graph with other choices of how to compute the network, and the parameters of the model."""
    other = sj.SeemoRe.abstract(dataclasses.replace(model.config, **choices))
    return nnx.split(other)[0], nnx.split(model)[1]


def inference(model: sj.SeemoRe, chosen: argparse.Namespace) -> dict[str, Any]:
    """Compares the compute types in inference, prints the table and returns the figures."""
    width, height = chosen.size
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
    if chosen.weights:
        header.append("PSNR on the set")
        for dtype in DTYPES:
            quality[dtype]["psnr"] = set_psnr(model, compute_dtype=dtype, folder=chosen.data)
            cells[dtype].append(f"{quality[dtype]['psnr']:.3f}")
    return _report(programs, quality, header, cells, chosen.rounds)


def _deviation(output: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Returns the largest difference and the PSNR in dB of images with values in [0, 1], which are not clipped."""
    difference = np.abs(output - reference).astype(np.float64)
    mean_square = float(np.mean(difference**2))
    return {
        "largest_difference": float(difference.max()),
        "psnr_to_float32": -10 * np.log10(mean_square) if mean_square else float("inf"),
    }


def _decibels(value: float) -> str:
    return "same" if value == float("inf") else f"{value:.1f}"


def set_psnr(model: sj.SeemoRe, *, compute_dtype: str, folder: Path, limit: int | None = None) -> float:
    """Returns the mean PSNR of a set, or of its first `limit` images, by the protocol of `eval.py`."""
    model = nnx.merge(*with_choices(model, compute_dtype=compute_dtype))
    scale = model.config.scale
    (image_set,) = find_image_sets([folder], scale)
    images = evaluate_images(image_set.pairs[:limit], scale, lambda lr: sj.upscale(model, lr))
    return Scores.mean([image.scores for image in images]).psnr


def training(model: sj.SeemoRe, chosen: argparse.Namespace) -> dict[str, Any]:
    """Compares compute types and rematerialization in a training step, prints the table and returns the figures."""
    lr = random_images(chosen.batch_size, chosen.patch_size, chosen.patch_size)
    sides = [model.config.scale * chosen.patch_size] * 2
    hr = random_images(chosen.batch_size, *sides)
    programs = {}
    for dtype in DTYPES:
        for rematerialize in (False, True):
            graph, parameters = with_choices(model, compute_dtype=dtype, rematerialize=rematerialize)
            name = f"{dtype}{', rematerialized' if rematerialize else ''}"
            programs[name] = Program.compile(jax.value_and_grad(loss_function(graph)), parameters, lr, hr)
    outputs = {name: jax.device_get(program.run()) for name, program in programs.items()}
    quality = {name: _gradient_deviation(output, outputs["float32"]) for name, output in outputs.items()}
    cells = {name: [f"{value:.1e}" for value in q.values()] for name, q in quality.items()}
    return _report(programs, quality, ["loss, relative", "gradient, relative"], cells, chosen.rounds)


def _gradient_deviation(output: Any, reference: Any) -> dict[str, float]:
    """Returns the relative difference of the loss, and that of the gradient in the 2-norm."""
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
    """Times the programs in turns, prints the table and returns the figures."""
    timings = timing.in_turns({name: program.run for name, program in programs.items()}, rounds=rounds)
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
    print(tables.aligned(["", *header, "median ms", "time / float32", "MB"], rows), flush=True)
    return {
        name: {**quality[name], "bytes": program.bytes, "seconds": timings.seconds[name]}
        for name, program in programs.items()
    }


if __name__ == "__main__":
    main()
