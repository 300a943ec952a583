"""Measures how time and memory of inference or of a training step grow with pixels, batch, groups and channels.

    python -m benchmarks.scaling --output build/scaling.json --plot build/scaling.png

Each of the four grows by itself, from a small network on small images, and an exponent is fitted to the logarithms: 1
is linear growth. Memory is what the compiled program allocates beside its arguments.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import seemore_jax as sj
from benchmarks.harness import networks, options, records, tables, timing
from benchmarks.harness.networks import Program, loss_function, random_images
from seemore_jax.inference.runner import upscale_batch
from seemore_jax.system.files import atomic_write


@dataclasses.dataclass(frozen=True)
class Setting:
    """Describes a network by its groups and channels, and its input: `batch` images of `pixels` LR pixels."""

    pixels: int = 128 * 128
    batch: int = 1
    groups: int = 2
    channels: int = 36

    @property
    def side(self) -> int:
        """Returns the side of the square images."""
        return round(self.pixels**0.5)

    def config(self, implementation: str) -> sj.SeemoReConfig:
        """Returns the configuration of T ×4 with these groups and channels."""
        return sj.SeemoReConfig.variant(
            "T", 4, num_layers=self.groups, embedding_dim=self.channels, implementation=implementation
        )


SWEEPS: dict[str, Sequence[int]] = {
    "pixels": (64**2, 96**2, 128**2, 192**2, 256**2, 384**2),
    "batch": (1, 2, 4, 8),
    "groups": (1, 2, 4, 8),
    "channels": (16, 32, 64, 128),
}


@dataclasses.dataclass(frozen=True)
class Growth:
    """Holds the figures for each value of one quantity, and the fitted exponents of seconds and bytes."""

    values: list[int]
    seconds: list[float]
    bytes: list[int]
    time_exponent: float
    memory_exponent: float


def main() -> None:
    chosen = _options()
    compile_program = compile_training if chosen.program == "training" else compile_inference
    growths = {}
    for quantity in chosen.sweeps:
        values = SWEEPS[quantity][: chosen.points]
        growths[quantity] = measure(quantity, values, compile_program, chosen.implementation, chosen.rounds)
        print(_table(quantity, growths[quantity]), end="\n\n", flush=True)
    exponents = {name: [f"{g.time_exponent:.2f}", f"{g.memory_exponent:.2f}"] for name, g in growths.items()}
    print(
        tables.aligned(["exponent (1 is linear)", "time", "memory"], [[name, *row] for name, row in exponents.items()])
    )
    records.finish(
        chosen.output,
        {
            "program": chosen.program,
            "implementation": chosen.implementation,
            "base": dataclasses.asdict(Setting()),
            "growth": {name: dataclasses.asdict(growth) for name, growth in growths.items()},
        },
    )
    if chosen.plot:
        with atomic_write(chosen.plot) as temporary:
            plot(growths).savefig(temporary, dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures the growth with pixels, batch, groups and channels.")
    parser.add_argument(
        "--program", choices=("inference", "training"), default="inference", help="(default: %(default)s)"
    )
    parser.add_argument("--sweeps", nargs="+", choices=tuple(SWEEPS), default=tuple(SWEEPS), help="(default: all)")
    parser.add_argument(
        "--points", type=int, help="how many values of each quantity to measure, at least 2 (default: all)"
    )
    parser.add_argument(
        "--implementation", choices=options.IMPLEMENTATIONS, default="auto", help="(default: %(default)s)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the figures into this file")
    options.add_rounds(parser, default=5)
    options.add_output(parser)
    chosen = parser.parse_args()
    if chosen.points is not None and chosen.points < 2:
        parser.error("--points: an exponent needs at least 2 points")
    return chosen


def measure(
    quantity: str,
    values: Sequence[int],
    compile_program: Callable[[Setting, str], Program],
    implementation: str,
    rounds: int,
) -> Growth:
    """Measures a program for each value of one quantity, with the smallest network and input otherwise."""
    programs = {
        str(value): compile_program(dataclasses.replace(Setting(), **{quantity: value}), implementation)
        for value in values
    }
    timings = timing.in_turns({name: program.run for name, program in programs.items()}, rounds=rounds)
    seconds = [timings.median(name) for name in programs]
    sizes = [program.bytes for program in programs.values()]
    return Growth(list(values), seconds, sizes, exponent(values, seconds), exponent(values, sizes))


def exponent(values: Sequence[float], figures: Sequence[float]) -> float:
    """Returns k of the power law figure = c · value**k that fits the logarithms best."""
    return float(np.polyfit(np.log(values), np.log(figures), 1)[0])


def compile_inference(setting: Setting, implementation: str) -> Program:
    """Compiles the upscaling of a batch of uint8 images."""
    graph, parameters = _network(setting, implementation)
    images = random_images(setting.batch, setting.side, setting.side)
    return Program.compile(lambda parameters, lr: upscale_batch(graph, parameters, lr), parameters, images)


def compile_training(setting: Setting, implementation: str) -> Program:
    """Compiles the gradient of the training loss."""
    graph, parameters = _network(setting, implementation)
    images = (random_images(setting.batch, factor * setting.side, factor * setting.side) for factor in (1, 4))
    return Program.compile(jax.grad(loss_function(graph)), parameters, *images)


def _network(setting: Setting, implementation: str) -> tuple[nnx.GraphDef[sj.SeemoRe], nnx.State]:
    return nnx.split(networks.random_network(setting.config(implementation)))


def _table(quantity: str, growth: Growth) -> str:
    rows = [
        [f"{value}", f"{1e3 * seconds:.1f}", f"{size / 1e6:.1f}"]
        for value, seconds, size in zip(growth.values, growth.seconds, growth.bytes, strict=True)
    ]
    return tables.aligned([quantity, "median ms", "MB"], rows)


def plot(growths: Mapping[str, Growth]) -> Figure:
    """Draws time and memory over each quantity, relative to the first point, beside linear growth."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axes, title in zip(figure.subplots(1, 2), ("time", "memory"), strict=True):
        largest = 1.0
        for name, growth in growths.items():
            figures = growth.seconds if title == "time" else growth.bytes
            fitted = growth.time_exponent if title == "time" else growth.memory_exponent
            factors = [value / growth.values[0] for value in growth.values]
            largest = max(largest, factors[-1])
            axes.loglog(factors, [f / figures[0] for f in figures], "o-", label=f"{name}: exponent {fitted:.2f}")
        axes.loglog([1, largest], [1, largest], ":", color="grey", label="linear")
        axes.set(title=title, xlabel="times the smallest input", ylabel=f"times the smallest {title}")
        axes.legend()
    return figure


if __name__ == "__main__":
    main()
