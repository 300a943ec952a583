"""Time and memory of a training step here and in PyTorch, with the same weights, batch, loss and optimizer.

    python -m benchmarks.training --output build/training.json
    python -m benchmarks.training --dtype bfloat16 --batch_size 32     # on a machine with a GPU

L1 + 0.1 · FFT-L1 and Adam, on uint8 patches in host memory. bfloat16 is of the activations: here by `compute_dtype`,
in PyTorch by autocast.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

import seemore_jax as sj
from benchmarks import peers, timing
from configs.release import recipe
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.optimizer import make_optimizer
from seemore_jax.training.step import initial_state, make_mesh, make_train_step, to_devices

PEERS = ("contiguous", "channels_last", "compile")
# Relative difference of the first losses, which are those of the same weights on the same batch.
BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2}

Step = Callable[[], float]


def main() -> None:
    options = _options()
    peers.use_all_cores()
    variant, scale = options.model.split("-x")
    print(f"{options.model}, batch {options.batch_size}, LR {options.patch_size}×{options.patch_size}, {options.dtype}")
    result = measure(sj.SeemoReConfig.variant(variant, int(scale)), options)
    timing.write(options.output, result)
    difference = result["relative_difference_of_first_losses"]
    if difference > BOUNDS[options.dtype]:
        sys.exit(f"the first losses differ by {difference:.1e}, more than {BOUNDS[options.dtype]:.0e}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds and memory of a training step, here and in PyTorch.")
    parser.add_argument("--model", choices=timing.MODELS, default="T-x4", metavar="T-x4")
    parser.add_argument("--batch_size", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--patch_size", type=int, default=64, help="in LR pixels (default: %(default)s)")
    parser.add_argument("--implementation", nargs="+", choices=("plain", "auto", "cpu"), default=["auto"])
    parser.add_argument("--rematerialize", action="store_true", help="also measure with rematerialization")
    parser.add_argument("--dtype", choices=tuple(BOUNDS), default="float32")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="(default: all)")
    timing.add_arguments(parser, rounds=9)
    return parser.parse_args()


def measure(config: sj.SeemoReConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Times all steps for that network, prints the table and returns the figures."""
    release = peers.release_network(config)
    batch = random_batch(options.batch_size, options.patch_size, config.scale)
    steps, programs = {}, {}
    for label, choices in _our_choices(options).items():
        mine = sj.SeemoReConfig.from_dict({**config.to_dict(), **choices})
        steps[label], programs[label] = our_step(peers.ported(release, mine), batch)
    for peer in options.peers:
        steps[f"PyTorch ({peer})"] = torch_step(release, batch, peer, options.dtype)
    first_losses = {label: step() for label, step in steps.items()}
    difference = _relative_difference(list(first_losses.values()))
    memory = {label: _peak_memory(step, programs.get(label)) for label, step in steps.items()}
    timings = timing.round_robin(steps, rounds=options.rounds)

    names = [label for label in steps if label not in programs]
    megabytes = {label: "?" if peak is None else f"{peak / 1e6:.0f}" for label, peak in memory.items()}
    print(timing.comparison(timings, names, "images", options.batch_size, {"peak MB": megabytes}))
    print(f"largest relative difference of two first losses: {difference:.1e}")
    return {
        "network": config.to_dict(),
        "batch_size": options.batch_size,
        "patch_size": options.patch_size,
        "dtype": options.dtype,
        "first_losses": first_losses,
        "relative_difference_of_first_losses": difference,
        "peak_bytes": memory,
        "temporary_bytes": {label: p.memory_analysis().temp_size_in_bytes for label, p in programs.items()},
        **timing.summary(timings, names),
    }


def _our_choices(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The fields of the configuration that each of our rows sets, by its label."""
    choices = {}
    for implementation in options.implementation:
        for rematerialize in (False, True) if options.rematerialize else (False,):
            label = f"seemore-jax ({implementation}{', rematerialized' if rematerialize else ''})"
            choices[label] = {
                "implementation": implementation,
                "rematerialize": rematerialize,
                "compute_dtype": options.dtype,
            }
    return choices


def random_batch(batch_size: int, patch_size: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """LR (N, P, P, 3) and HR (N, sP, sP, 3), uint8."""
    rng = np.random.default_rng(0)
    lr, hr = (
        rng.integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8) for side in (patch_size, scale * patch_size)
    )
    return lr, hr


def our_step(model: sj.SeemoRe, batch: tuple[np.ndarray, np.ndarray]) -> tuple[Step, Any]:
    """A step of training, which returns the loss before it; and the compiled program."""
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
    """The same in PyTorch: `kind` is a memory format of the release's network, or "compile"."""
    device = peers.torch_device()
    memory_format = torch.contiguous_format if kind == "contiguous" else torch.channels_last
    network = copy.deepcopy(release).to(device, memory_format=memory_format).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)
    forward = torch.compile(network) if kind == "compile" else network

    def load(images: np.ndarray) -> torch.Tensor:
        on_device = torch.from_numpy(images).to(device)
        return (on_device.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=memory_format)

    def step() -> float:
        lr, hr = map(load, batch)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            sr = forward(lr)
        loss = peers.release_loss(sr.float(), hr)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    return step


def _peak_memory(step: Step, program: Any | None) -> int | None:
    """Bytes of the memory of the device (of the process, on a CPU) that a step takes at its peak."""
    if jax.default_backend() == "cpu":
        return timing.peak_memory(step)
    if program is not None:
        return program.memory_analysis().temp_size_in_bytes
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def _relative_difference(values: list[float]) -> float:
    return (max(values) - min(values)) / min(values)


if __name__ == "__main__":
    main()
