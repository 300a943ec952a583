"""Draws the quality of the bundled weights over the LR pixels that they were trained on, with the paper's points.

    python -m benchmarks.training_curve --output docs/training_curve.png

The file `training_runs.csv` has one line for each training: the patches of a step and their side in LR pixels, the
steps, the training whose weights it continues, and its PSNR in dB, which `eval.py` printed. The pixels of a training
include those of the trainings that it continues.
"""

import argparse
import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from matplotlib.figure import Figure

from seemore_jax.system.files import atomic_write

RUNS = Path(__file__).with_name("training_runs.csv")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
      name: name of the weights.
      scale: factor of the upscaling.
      pixels: LR pixels of all steps of this training, without those of the trainings that it continues.
      continues: name of the run whose weights it starts from; an empty string for random weights.
      psnr: PSNR on Set5 in dB.
    """

    name: str
    scale: int
    pixels: int
    continues: str
    psnr: float

    @classmethod
    def parse(cls, line: Mapping[str, str]) -> Self:
        """Returns the run that a line of the CSV file describes."""
        pixels = int(line["steps"]) * int(line["patches"]) * int(line["patch_size"]) ** 2
        return cls(line["run"], int(line["scale"]), pixels, line["continues"], float(line["set5_psnr"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="PNG", help="file of the figure")
    chosen = parser.parse_args()
    runs = read_runs(RUNS)
    for name, run in runs.items():
        print(f"{name}: x{run.scale}, {total_pixels(name, runs) / 1e6:,.0f} million LR pixels, Set5 {run.psnr:.2f} dB")
    with atomic_write(chosen.output) as temporary:
        draw(runs).savefig(temporary, format="png", dpi=150)


def read_runs(path: Path) -> dict[str, Run]:
    """Returns the runs of a file by their names.

    Args:
      path: the CSV file.
    """
    with path.open(newline="") as lines:
        return {run.name: run for run in map(Run.parse, csv.DictReader(lines))}


def total_pixels(name: str, runs: Mapping[str, Run]) -> int:
    """Returns the LR pixels of a training and of all trainings that it continues.

    Args:
      name: name of the run.
      runs: all runs by their names.
    """
    run = runs[name]
    return run.pixels + (total_pixels(run.continues, runs) if run.continues else 0)


def draw(runs: Mapping[str, Run]) -> Figure:
    """Draws Set5 PSNR over pixels: one panel for each scale, one point for each run, lines to the runs continued.

    Args:
      runs: all runs by their names.
    """
    scales = sorted({run.scale for run in runs.values()})
    figure = Figure(figsize=(3.6 * len(scales), 3.4), layout="constrained")
    for axes, scale in zip(figure.subplots(1, len(scales), squeeze=False)[0], scales, strict=True):
        chosen = {name: run for name, run in runs.items() if run.scale == scale}
        for name, run in chosen.items():
            x = total_pixels(name, runs)
            colour = "tab:orange" if name.startswith("paper's") else "tab:blue"
            axes.plot(x, run.psnr, "o", color=colour)
            side, offset = ("right", -6) if colour == "tab:orange" else ("left", 6)
            label = f"{name}\n{run.psnr:.2f} dB"
            axes.annotate(label, (x, run.psnr), (offset, -4), textcoords="offset points", ha=side, va="top", fontsize=7)
            if run.continues in chosen:
                before = runs[run.continues]
                axes.plot((total_pixels(before.name, runs), x), (before.psnr, run.psnr), "-", color=colour, linewidth=1)
        axes.set(title=f"×{scale}", xlabel="LR pixels in training", xscale="log", xlim=(2e7, 2e11))
        axes.set_ylabel("Set5 PSNR in dB")
        axes.margins(y=0.2)
        axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
