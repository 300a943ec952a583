"""Compares training here with training in PyTorch, from the same weights on the same batches: losses and final PSNR.

    python -m benchmarks.training_parity --data ../shared/data

PyTorch trains the release's network (`seemore` on PyPI) with PyTorch's Adam, schedule and loss. Exits with status 1 if
a loss of the first steps or the PSNR at the end differs by more than its bound.
"""

import argparse
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from benchmarks import peers, release_training
from benchmarks.harness import options, records, tables
from seemore_jax import SeemoRe, upscale
from seemore_jax.configs.release import recipe
from seemore_jax.data.image_pairs import ImagePair
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.data.pipeline import Batch, training_batches
from seemore_jax.data.preparation import prepare
from seemore_jax.data.stored_pairs import open_dataset
from seemore_jax.evaluation.benchmark import Scores, Upscaler, bicubic_upscaler
from seemore_jax.training.experiment import Experiment, network_of
from seemore_jax.training.optimizer import make_optimizer
from seemore_jax.training.step import initial_state, make_mesh, make_train_step, to_devices

SCALE = 2
COMPARED_STEPS = 20
LOSS_BOUND = 1e-4  # relative difference at each of the compared steps
PSNR_BOUND = 0.05  # difference at the end, in dB
# The release halves the learning rate after these fractions of the run.
HALVINGS = (0.5, 0.8, 0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class Trained:
    """Holds the loss of each step of a run, and the trained network as an upscaler."""

    losses: list[float]
    upscaler: Upscaler


def main() -> None:
    chosen = _options()
    config = _experiment(chosen)
    images = sorted((chosen.data / "train" / "t91").iterdir())[: chosen.images]
    validation = find_image_sets([chosen.data / "valid" / "kodak"], SCALE)[0].pairs[: chosen.validation_images]
    release = peers.release_network(network_of(config), chosen.seed)
    ours = peers.ported(release, network_of(config))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prepare("image_folder", folder, scales=[SCALE], sources=images)
        config.data_dir = folder
        trained = {"JAX": _train_here(config, ours), "PyTorch": _train_in_pytorch(config, release)}
    scores = {name: _psnr(run.upscaler, validation) for name, run in trained.items()}
    scores["bicubic"] = _psnr(bicubic_upscaler(SCALE), validation)
    result = _result(trained, scores, [pair.name for pair in validation], config, chosen)
    result["seconds"] = round(time.perf_counter() - start)
    print(_report(result))
    records.finish(chosen.output, result, _failures(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains a small SeemoRe ×2 here and in PyTorch, and compares.")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared/data"),
        help="folder that holds train/t91 and valid/kodak (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, default=300, help=f"training steps, at least {COMPARED_STEPS} (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=48, help="images to train on (default: %(default)s)")
    parser.add_argument("--validation_images", type=int, default=4, help="images to validate on (default: %(default)s)")
    parser.add_argument(
        "--patch_size", type=int, default=24, help="side of a training patch in LR pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--schedule",
        choices=("halving", "cosine"),
        default="halving",
        help="how the learning rate falls (default: %(default)s)",
    )
    options.add_seed(parser, determines="weights and batches")
    options.add_output(parser)
    chosen = parser.parse_args()
    if chosen.steps < COMPARED_STEPS:
        parser.error(f"--steps: must be at least {COMPARED_STEPS}, not {chosen.steps}")
    for folder in ("train/t91", "valid/kodak"):
        if not (chosen.data / folder).is_dir():
            parser.error(f"--data: {chosen.data / folder} is not a folder")
    return chosen


def _experiment(chosen: argparse.Namespace) -> ConfigDict:
    """Returns the release's recipe with a smaller network, batch and number of steps."""
    config = recipe("T", SCALE)
    config.architecture.num_layers = 2
    config.architecture.embedding_dim = 24
    config.dataset = "image_folder"
    config.patch_size = chosen.patch_size
    config.batch_size = 8
    config.num_steps = chosen.steps
    config.schedule = chosen.schedule
    config.seed = chosen.seed
    return config


def _batches(config: ConfigDict) -> Iterator[Batch]:
    """Yields the batches of a run, which are the same at every call."""
    batches = training_batches(
        open_dataset(config.dataset, config.data_dir, config.scale),
        scale=config.scale,
        patch_size=config.patch_size,
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=0,
    )
    with tqdm(total=config.num_steps, unit="step", disable=None) as progress:
        for batch in itertools.islice(batches, config.num_steps):
            yield batch
            progress.update()
    batches.close()


def _train_here(config: ConfigDict, model: SeemoRe) -> Trained:
    graph, parameters = nnx.split(model)
    mesh, optimizer = make_mesh(), make_optimizer(Experiment.of(config))
    state = initial_state(parameters, optimizer, average=False, mesh=mesh)
    step = make_train_step(graph, optimizer, mesh)
    stop = np.zeros(jax.local_device_count(), np.float32)
    losses = []
    for batch in _batches(config):
        state, metrics = step(state, *(to_devices(mesh, rows) for rows in (*batch, stop)))
        losses.append(float(metrics.loss.total))
    trained = nnx.merge(graph, state.parameters)
    return Trained(losses, lambda lr: upscale(trained, lr))


def _train_in_pytorch(config: ConfigDict, model: Any) -> Trained:
    model.train()
    optimizer = release_training.adam(model, config.learning_rate)
    if config.schedule == "halving":
        milestones = [round(fraction * config.num_steps) for fraction in HALVINGS]
        schedule: Any = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5)
    else:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, config.num_steps, eta_min=config.final_learning_rate
        )
    losses = []
    for batch in _batches(config):
        optimizer.zero_grad()
        lr, hr = (release_training.to_nchw(images) for images in (batch.lr, batch.hr))
        loss = release_training.release_loss(model(lr), hr)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return Trained(losses, lambda lr: _upscale_in_pytorch(model.eval(), lr))


def _upscale_in_pytorch(model: Any, lr: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        sr = model(release_training.to_nchw(lr[None]))[0].clamp(0, 1)
    return (sr * 255).round().byte().numpy().transpose(1, 2, 0)


def _psnr(upscaler: Upscaler, pairs: tuple[ImagePair, ...]) -> list[float]:
    """Returns the PSNR of each image by the protocol of `eval.py`."""
    images = [pair.read(SCALE) for pair in pairs]
    return [Scores.of(upscaler(lr), hr, SCALE).psnr for lr, hr in images]


def _result(
    trained: dict[str, Trained],
    scores: dict[str, list[float]],
    names: list[str],
    config: ConfigDict,
    chosen: argparse.Namespace,
) -> dict[str, Any]:
    relative = [
        abs(mine - theirs) / theirs
        for mine, theirs in zip(trained["JAX"].losses, trained["PyTorch"].losses, strict=True)
    ]
    return {
        "losses": {name: run.losses for name, run in trained.items()},
        "relative_loss_difference": relative,
        "psnr": {name: float(np.mean(values)) for name, values in scores.items()},
        "psnr_of_each": {name: dict(zip(names, values, strict=True)) for name, values in scores.items()},
        "steps": config.num_steps,
        "schedule": config.schedule,
        "patch_size": config.patch_size,
        "batch_size": config.batch_size,
        "images": chosen.images,
        "seed": config.seed,
    }


def _report(result: dict[str, Any]) -> str:
    psnr = result["psnr"]
    summary = (
        f"Largest relative difference of steps 1 to {COMPARED_STEPS}: {_largest_difference(result):.1e} "
        f"(bound {LOSS_BOUND:.0e}). "
        f"Difference of the mean PSNR: {abs(psnr['JAX'] - psnr['PyTorch']):.3f} dB (bound {PSNR_BOUND} dB)."
    )
    return "\n\n".join([_loss_table(result), _psnr_table(result), summary, records.footer(result["seconds"])])


def _loss_table(result: dict[str, Any]) -> str:
    losses = zip(
        range(1, COMPARED_STEPS + 1),
        result["losses"]["JAX"],
        result["losses"]["PyTorch"],
        result["relative_loss_difference"],
        strict=False,
    )
    rows = [[f"{step}", f"{mine:.6f}", f"{theirs:.6f}", f"{apart:.1e}"] for step, mine, theirs, apart in losses]
    return tables.compact(["step", "loss, JAX", "loss, PyTorch", "relative difference"], rows, "rrrr")


def _psnr_table(result: dict[str, Any]) -> str:
    kinds = ("JAX", "PyTorch", "bicubic")
    each = result["psnr_of_each"]
    scores = [(name, [each[kind][name] for kind in kinds]) for name in each["JAX"]]
    scores.append(("mean", [result["psnr"][kind] for kind in kinds]))
    rows = [
        [name, f"{mine:.3f}", f"{theirs:.3f}", f"{mine - theirs:+.3f}", f"{bicubic:.3f}"]
        for name, (mine, theirs, bicubic) in scores
    ]
    header = [f"PSNR (dB) after {result['steps']} steps", "JAX", "PyTorch", "difference", "bicubic"]
    return tables.compact(header, rows, "lrrrr")


def _largest_difference(result: dict[str, Any]) -> float:
    """Returns the largest relative difference of a loss within the compared steps."""
    return max(result["relative_loss_difference"][:COMPARED_STEPS])


def _failures(result: dict[str, Any]) -> list[str]:
    failures = []
    largest = _largest_difference(result)
    if not largest <= LOSS_BOUND:
        failures.append(f"the losses differ by {largest:.1e}, more than {LOSS_BOUND:.0e}")
    difference = abs(result["psnr"]["JAX"] - result["psnr"]["PyTorch"])
    if not difference <= PSNR_BOUND:
        failures.append(f"PSNR differs by {difference:.3f} dB, more than {PSNR_BOUND}")
    return failures


if __name__ == "__main__":
    main()
