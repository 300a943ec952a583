"""How time and memory of inference, or of a training step, grow with pixels, batch, groups and channels.

    python -m benchmarks.scaling --output build/scaling.json --plot build/scaling.png

One of the four at a time grows from a small network on small images, and an exponent is fitted in logarithms: 1 is
linear. Memory is what the compiled program allocates beside its arguments.
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
from benchmarks import timing
from benchmarks.programs import Program, loss_function, random_images
from seemore_jax.inference.runner import upscale_batch
from seemore_jax.system.files import atomic_write


@dataclasses.dataclass(frozen=True)
class Setting:
    """A network of `groups` groups of `channels` channels, and its input: `batch` images of `pixels` LR pixels."""

    pixels: int = 128 * 128
    batch: int = 1
    groups: int = 2
    channels: int = 36

    @property
    def side(self) -> int:
        """Of the square images."""
        return round(self.pixels**0.5)

    def config(self, implementation: str) -> sj.SeemoReConfig:
        """T ×4, with these groups and channels."""
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
    """Figures of one sweep, and the exponents of seconds and bytes, fitted."""

    values: list[int]
    seconds: list[float]
    bytes: list[int]
    time_exponent: float
    memory_exponent: float


def main() -> None:
    options = _options()
    compile_program = compile_training if options.program == "training" else compile_inference
    growths = {}
    for quantity in options.sweeps:
        values = SWEEPS[quantity][: options.points]
        growths[quantity] = measure(quantity, values, compile_program, options.implementation, options.rounds)
        print(_table(quantity, growths[quantity]), end="\n\n", flush=True)
    exponents = {name: [f"{g.time_exponent:.2f}", f"{g.memory_exponent:.2f}"] for name, g in growths.items()}
    print(timing.table(["exponent (1 is linear)", "time", "memory"], [[name, *row] for name, row in exponents.items()]))
    timing.write(
        options.output,
        {
            "program": options.program,
            "implementation": options.implementation,
            "base": dataclasses.asdict(Setting()),
            "growth": {name: dataclasses.asdict(growth) for name, growth in growths.items()},
        },
    )
    if options.plot:
        with atomic_write(options.plot) as temporary:
            plot(growths).savefig(temporary, dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How time and memory grow with pixels, batch, groups and channels.")
    parser.add_argument("--program", choices=("inference", "training"), default="inference")
    parser.add_argument("--sweeps", nargs="+", choices=tuple(SWEEPS), default=tuple(SWEEPS), help="(default: all)")
    parser.add_argument("--points", type=int, help="only the first of each sweep, at least 2 (default: all)")
    parser.add_argument("--implementation", choices=("plain", "auto", "cpu"), default="auto")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the figures here")
    timing.add_arguments(parser, rounds=5)
    options = parser.parse_args()
    if options.points is not None and options.points < 2:
        parser.error("--points: at least 2, for an exponent")
    return options


def measure(
    quantity: str,
    values: Sequence[int],
    compile_program: Callable[[Setting, str], Program],
    implementation: str,
    rounds: int,
) -> Growth:
    """Time and memory of a program for each value of one quantity, the others at their base."""
    programs = {
        str(value): compile_program(dataclasses.replace(Setting(), **{quantity: value}), implementation)
        for value in values
    }
    timings = timing.round_robin({name: program.run for name, program in programs.items()}, rounds=rounds)
    seconds = [timings.median(name) for name in programs]
    sizes = [program.bytes for program in programs.values()]
    return Growth(list(values), seconds, sizes, exponent(values, seconds), exponent(values, sizes))


def exponent(values: Sequence[float], figures: Sequence[float]) -> float:
    """k of the power law figure = c · value**k that fits best in logarithms."""
    return float(np.polyfit(np.log(values), np.log(figures), 1)[0])


def compile_inference(setting: Setting, implementation: str) -> Program:
    """Upscaling of a batch of uint8 images."""
    graph, parameters = _network(setting, implementation)
    images = random_images(setting.batch, setting.side, setting.side)
    return Program.compile(lambda parameters, lr: upscale_batch(graph, parameters, lr), parameters, images)


def compile_training(setting: Setting, implementation: str) -> Program:
    """The gradient of the training loss."""
    graph, parameters = _network(setting, implementation)
    images = (random_images(setting.batch, factor * setting.side, factor * setting.side) for factor in (1, 4))
    return Program.compile(jax.grad(loss_function(graph)), parameters, *images)


def _network(setting: Setting, implementation: str) -> tuple[nnx.GraphDef[sj.SeemoRe], nnx.State]:
    return nnx.split(sj.SeemoRe(setting.config(implementation), rngs=nnx.Rngs(0)))


def _table(quantity: str, growth: Growth) -> str:
    rows = [
        [f"{value}", f"{1e3 * seconds:.1f}", f"{size / 1e6:.1f}"]
        for value, seconds, size in zip(growth.values, growth.seconds, growth.bytes, strict=True)
    ]
    return timing.table([quantity, "median ms", "MB"], rows)


def plot(growths: Mapping[str, Growth]) -> Figure:
    """Time and memory over each quantity, all relative to their first point, beside a linear law."""
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
