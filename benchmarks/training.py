"""Compares time and memory of a training step here and in PyTorch: the same weights, batch, loss and optimizer.

    python -m benchmarks.training --output build/training.json
    python -m benchmarks.training --dtype bfloat16 --batch_size 32     # on a machine with a GPU

The loss is L1 + 0.1 · FFT-L1, the optimizer Adam, and the patches are uint8 in host memory. With --dtype bfloat16 the
activations have that type: here by `compute_dtype`, in PyTorch by autocast. Exits with status 1 if the first losses
differ.
"""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

import seemore_jax as sj
from benchmarks import peers, release_training
from benchmarks.harness import networks, options, processes, records, tables, timing
from seemore_jax.configs.release import recipe
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.optimizer import make_optimizer
from seemore_jax.training.step import initial_state, make_mesh, make_train_step, to_devices

PEERS = ("contiguous", "channels_last", "compile")
# The largest accepted relative difference of the first losses, which have the same weights and the same batch.
BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2}

Step = Callable[[], float]


def main() -> None:
    chosen = _options()
    peers.use_all_cores()
    print(f"{chosen.model}, batch {chosen.batch_size}, LR {chosen.patch_size}×{chosen.patch_size}, {chosen.dtype}")
    result = measure(networks.config_of(chosen.model), chosen)
    difference, bound = result["relative_difference_of_first_losses"], BOUNDS[chosen.dtype]
    failures = [f"the first losses differ by {difference:.1e}, more than {bound:.0e}"] if difference > bound else []
    records.finish(chosen.output, result, failures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures a training step, here and in PyTorch.")
    options.add_model(parser)
    options.add_training_batch(parser)
    options.add_implementations(parser)
    parser.add_argument("--rematerialize", action="store_true", help="measure rematerialization as well")
    parser.add_argument("--dtype", choices=tuple(BOUNDS), default="float32", help="(default: %(default)s)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="(default: all)")
    options.add_rounds(parser, default=9)
    options.add_output(parser)
    return parser.parse_args()


def measure(config: sj.SeemoReConfig, chosen: argparse.Namespace) -> dict[str, Any]:
    """Times all steps for that network, prints the table and returns the figures."""
    release = peers.release_network(config)
    batch = random_batch(chosen.batch_size, chosen.patch_size, config.scale)
    steps, programs = {}, {}
    for label, choices in _our_choices(chosen).items():
        mine = sj.SeemoReConfig.from_dict({**config.to_dict(), **choices})
        steps[label], programs[label] = our_step(peers.ported(release, mine), batch)
    for peer in chosen.peers:
        steps[f"PyTorch ({peer})"] = torch_step(release, batch, peer, chosen.dtype)
    first_losses = {label: step() for label, step in steps.items()}
    difference = _relative_difference(list(first_losses.values()))
    memory = {label: _peak_memory(step, programs.get(label)) for label, step in steps.items()}
    timings = timing.in_turns(steps, rounds=chosen.rounds)

    names = [label for label in steps if label not in programs]
    megabytes = {label: "?" if peak is None else f"{peak / 1e6:.0f}" for label, peak in memory.items()}
    print(tables.comparison(timings, names, "images", chosen.batch_size, {"peak MB": megabytes}))
    print(f"largest relative difference of two first losses: {difference:.1e}")
    return {
        "network": config.to_dict(),
        "batch_size": chosen.batch_size,
        "patch_size": chosen.patch_size,
        "dtype": chosen.dtype,
        "first_losses": first_losses,
        "relative_difference_of_first_losses": difference,
        "peak_bytes": memory,
        "temporary_bytes": {label: p.memory_analysis().temp_size_in_bytes for label, p in programs.items()},
        **timings.summary(names),
    }


def _our_choices(chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Returns the fields of the configuration for each row of this package, by the label of the row."""
    choices = {}
    for implementation in chosen.implementation:
        for rematerialize in (False, True) if chosen.rematerialize else (False,):
            label = f"seemore-jax ({implementation}{', rematerialized' if rematerialize else ''})"
            choices[label] = {
                "implementation": implementation,
                "rematerialize": rematerialize,
                "compute_dtype": chosen.dtype,
            }
    return choices


def random_batch(batch_size: int, patch_size: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns LR (N, P, P, 3) and HR (N, sP, sP, 3), uint8."""
    rng = np.random.default_rng(0)
    lr, hr = (
        rng.integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8) for side in (patch_size, scale * patch_size)
    )
    return lr, hr


def our_step(model: sj.SeemoRe, batch: tuple[np.ndarray, np.ndarray]) -> tuple[Step, Any]:
    """Returns a training step, which returns the loss before the update, and the compiled program of the step."""
    graph, parameters = nnx.split(model)
    mesh, optimizer = make_mesh(), make_optimizer(Experiment.of(recipe("T", 4)))
    state = initial_state(parameters, optimizer, average=False, mesh=mesh)
    stop = np.zeros(jax.local_device_count(), np.float32)
    jitted: Any = make_train_step(graph, optimizer, mesh)
    program = jitted.lower(state, *(to_devices(mesh, rows) for rows in (*batch, stop))).compile()

    def step() -> float:
        nonlocal state
        state, metrics = program(state, *(to_devices(mesh, rows) for rows in (*batch, stop)))
        jax.block_until_ready(state)
        return float(metrics.loss.total)

    return step, program


def torch_step(release: Any, batch: tuple[np.ndarray, np.ndarray], kind: str, dtype: str) -> Step:
    """Returns the same step in PyTorch; `kind` is a memory format of the release's network, or "compile"."""
    device = peers.torch_device()
    memory_format = torch.contiguous_format if kind == "contiguous" else torch.channels_last
    network = copy.deepcopy(release).to(device, memory_format=memory_format).train()
    optimizer = release_training.adam(network, 1e-3, fused=True)
    forward = torch.compile(network) if kind == "compile" else network

    def step() -> float:
        lr, hr = (release_training.to_nchw(images, device, memory_format) for images in batch)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            sr = forward(lr)
        loss = release_training.release_loss(sr.float(), hr)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    return step


def _peak_memory(step: Step, program: Any | None) -> int | None:
    """Returns the bytes of device memory (on a CPU: of this process) that a step takes at its peak."""
    if jax.default_backend() == "cpu":
        return processes.peak_memory(step)
    if program is not None:
        return program.memory_analysis().temp_size_in_bytes
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def _relative_difference(values: list[float]) -> float:
    """Returns the largest relative difference between any two values."""
    return (max(values) - min(values)) / min(values)


if __name__ == "__main__":
    main()
