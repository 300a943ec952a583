"""Training here and in PyTorch from the same weights on the same batches: losses, and PSNR at the end.

    python -m benchmarks.training_parity --data ../shared/data

PyTorch trains the release's network (`seemore` on PyPI) with its own Adam, schedule and loss. Exits with status 1 if
a loss of the first steps or the PSNR at the end differs by more than its bound.
"""

import argparse
import dataclasses
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import seemore.module
import torch
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from benchmarks import timing
from configs.release import recipe
from seemore_jax import SeemoRe, upscale
from seemore_jax.data.image_pairs import ImagePair
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.data.pipeline import Batch, training_batches
from seemore_jax.data.preparation import prepare
from seemore_jax.data.stored_pairs import open_dataset
from seemore_jax.evaluation.benchmark import Scores, Upscaler, bicubic_upscaler
from seemore_jax.porting.names import from_torch
from seemore_jax.training.experiment import Experiment, network_of
from seemore_jax.training.optimizer import make_optimizer
from seemore_jax.training.step import initial_state, make_mesh, make_train_step, to_devices

SCALE = 2
COMPARED_STEPS = 20
LOSS_BOUND = 1e-4  # relative, at each of the compared steps
PSNR_BOUND = 0.05  # dB, at the end
HALVINGS = (0.5, 0.8, 0.9, 0.95)  # of the run, where the release halves the learning rate


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run ended with: the loss of each step, and the network as an upscaler."""

    losses: list[float]
    upscaler: Upscaler


def main() -> None:
    options = _options()
    config = _experiment(options)
    images = sorted((options.data / "train" / "t91").iterdir())[: options.images]
    validation = find_image_sets([options.data / "valid" / "kodak"], SCALE)[0].pairs[: options.validation_images]
    torch.manual_seed(options.seed)
    release = seemore.module.SeemoRe(**network_of(config).to_dict())
    ours = from_torch(
        network_of(config), {name: tensor.numpy() for name, tensor in release.state_dict().items()}, "PyTorch"
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prepare("image_folder", folder, scales=[SCALE], sources=images)
        config.data_dir = folder
        trained = {"JAX": _train_here(config, ours), "PyTorch": _train_in_pytorch(config, release)}
    scores = {name: _psnr(run.upscaler, validation) for name, run in trained.items()}
    scores["bicubic"] = _psnr(bicubic_upscaler(SCALE), validation)
    result = _result(trained, scores, [pair.name for pair in validation], config, options)
    result["seconds"] = round(time.perf_counter() - start)
    print(_markdown(result))
    timing.write(options.output, result)
    failures = _failures(result)
    if failures:
        sys.exit("\n".join(failures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains a small SeemoRe ×2 here and in PyTorch, and compares.")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="has train/t91, valid/kodak (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=300, help=f"at least {COMPARED_STEPS} (default: %(default)s)")
    parser.add_argument("--images", type=int, default=48, help="to train on (default: %(default)s)")
    parser.add_argument("--validation_images", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--patch_size", type=int, default=24, help="in LR pixels (default: %(default)s)")
    parser.add_argument("--schedule", choices=("halving", "cosine"), default="halving")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the measurements here, as JSON")
    options = parser.parse_args()
    if options.steps < COMPARED_STEPS:
        parser.error(f"--steps: at least {COMPARED_STEPS}, not {options.steps}")
    for folder in ("train/t91", "valid/kodak"):
        if not (options.data / folder).is_dir():
            parser.error(f"--data: {options.data / folder} is no folder")
    return options


def _experiment(options: argparse.Namespace) -> ConfigDict:
    """The release's recipe, made small."""
    config = recipe("T", SCALE)
    config.architecture.num_layers = 2
    config.architecture.embedding_dim = 24
    config.dataset = "image_folder"
    config.patch_size = options.patch_size
    config.batch_size = 8
    config.num_steps = options.steps
    config.schedule = options.schedule
    config.seed = options.seed
    return config


def _batches(config: ConfigDict) -> Iterator[Batch]:
    """The batches of a run, the same at every call."""
    batches = training_batches(
        open_dataset(config.dataset, config.data_dir, config.scale),
        scale=config.scale,
        patch_size=config.patch_size,
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=0,
    )
    with tqdm(total=config.num_steps, unit="step", file=sys.stderr, disable=None) as progress:
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
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
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
        loss = _release_loss(model(_to_torch(batch.lr)), _to_torch(batch.hr))
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return Trained(losses, lambda lr: _upscale_in_pytorch(model.eval(), lr))


def _release_loss(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """L1 + 0.1 · L1 of the stacked real and imaginary parts of the images' spectra."""
    spectrum, target = (torch.view_as_real(torch.fft.rfft2(image)) for image in (sr, hr))
    return torch.nn.functional.l1_loss(sr, hr) + 0.1 * torch.nn.functional.l1_loss(spectrum, target)


def _to_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255


def _upscale_in_pytorch(model: Any, lr: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        sr = model(_to_torch(lr[None]))[0].clamp(0, 1)
    return (sr * 255).round().byte().numpy().transpose(1, 2, 0)


def _psnr(upscaler: Upscaler, pairs: tuple[ImagePair, ...]) -> list[float]:
    """Of each image, by the protocol of `eval.py`."""
    images = [pair.read(SCALE) for pair in pairs]
    return [Scores.of(upscaler(lr), hr, SCALE).psnr for lr, hr in images]


def _result(
    trained: dict[str, Trained],
    scores: dict[str, list[float]],
    names: list[str],
    config: ConfigDict,
    options: argparse.Namespace,
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
        "images": options.images,
        "seed": config.seed,
    }


def _markdown(result: dict[str, Any]) -> str:
    rows = zip(
        range(1, COMPARED_STEPS + 1),
        result["losses"]["JAX"],
        result["losses"]["PyTorch"],
        result["relative_loss_difference"],
        strict=False,
    )
    psnr, each = result["psnr"], result["psnr_of_each"]
    kinds = ("JAX", "PyTorch", "bicubic")
    lines = [
        "| step | loss, JAX | loss, PyTorch | relative difference |",
        "|---:|---:|---:|---:|",
        *(f"| {step} | {mine:.6f} | {theirs:.6f} | {difference:.1e} |" for step, mine, theirs, difference in rows),
        "",
        f"| PSNR (dB) after {result['steps']} steps | JAX | PyTorch | difference | bicubic |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, (mine, theirs, bicubic) in [
        *((name, tuple(each[kind][name] for kind in kinds)) for name in each["JAX"]),
        ("mean", tuple(psnr[kind] for kind in kinds)),
    ]:
        lines.append(f"| {name} | {mine:.3f} | {theirs:.3f} | {mine - theirs:+.3f} | {bicubic:.3f} |")
    largest = max(result["relative_loss_difference"][:COMPARED_STEPS])
    lines += [
        "",
        f"Largest relative difference of steps 1 to {COMPARED_STEPS}: {largest:.1e} (bound {LOSS_BOUND:.0e}). "
        f"Difference of the mean PSNR: {abs(psnr['JAX'] - psnr['PyTorch']):.3f} dB (bound {PSNR_BOUND} dB).",
        "",
        timing.footer(result["seconds"]),
    ]
    return "\n".join(lines)


def _failures(result: dict[str, Any]) -> list[str]:
    failures = []
    largest = max(result["relative_loss_difference"][:COMPARED_STEPS])
    if not largest <= LOSS_BOUND:
        failures.append(f"the losses differ by {largest:.1e}, more than {LOSS_BOUND:.0e}")
    difference = abs(result["psnr"]["JAX"] - result["psnr"]["PyTorch"])
    if not difference <= PSNR_BOUND:
        failures.append(f"PSNR differs by {difference:.3f} dB, more than {PSNR_BOUND}")
    return failures


if __name__ == "__main__":
    main()
