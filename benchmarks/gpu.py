"""Compiles the training step of every network for NVIDIA GPUs, on a machine without one, and prints what each costs.

    python -m benchmarks.gpu --output build/gpu.json
    python -m benchmarks.gpu --networks T-x4 --types bfloat16 --gpus h100

This needs JAX's CUDA plugin (pip install '.[cuda]') and takes minutes for each network, type and GPU. What has been
compiled is kept in the user's cache, so after an interruption the same command continues where it was. Nothing is
measured on a GPU.
"""

import argparse
import dataclasses
from typing import Any

from benchmarks.harness import options, records
from benchmarks.harness.networks import MODELS
from seemore_jax.ahead_of_time.gpus import GPUS, GpuTopology, require_cuda_plugin
from seemore_jax.ahead_of_time.report import step_report, to_json
from seemore_jax.configs.release import recipe
from seemore_jax.system.errors import InputError
from seemore_jax.training.experiment import Experiment

TYPES = ("float32", "bfloat16")
_HEADING = (
    "| network | type | GPU | memory | largest batch | traffic | kernels | limited by | images/s (predicted) |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """Holds one line of the table: the figures of `to_json`, or the message of a program that does not compile."""

    network: str
    dtype: str
    gpu: str
    figures: dict[str, Any] | None
    message: str = ""

    def __str__(self) -> str:
        start = f"| {self.network} | {self.dtype} | {self.gpu} | "
        if self.figures is None:
            return f"{start}{self.message} |"
        memory = f"{self.figures['occupied'] / 1e9:.1f} GB{'' if self.figures['fits'] else ', does not fit'}"
        limit = max(("matrix", "memory", "launches"), key=self.figures["roofline"].get)
        return (
            f"{start}{memory} | {self.figures['largest_batch']:,} | {self.figures['hbm_traffic'] / 1e9:.1f} GB | "
            f"{self.figures['kernel_launches']:,} | {limit} | {self.figures['images_per_second']:,.0f} |"
        )


def main() -> None:
    chosen = _options()
    require_cuda_plugin()
    rows: list[Row] = []
    print("\n".join(_HEADING), flush=True)
    for network in chosen.networks:
        for dtype in chosen.types:
            for gpu in chosen.gpus:
                rows.append(_row(network, dtype, gpu, chosen.batch))
                print(rows[-1], flush=True)
                records.write(chosen.output, {"batch": chosen.batch, "rows": [dataclasses.asdict(row) for row in rows]})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=MODELS, default=MODELS, help="(default: all)")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES, help="(default: both)")
    parser.add_argument("--gpus", nargs="+", choices=sorted(GPUS), default=("h100", "a100", "rtx4090"))
    parser.add_argument("--batch", type=int, default=32, help="patches of 64×64 LR pixels (default: %(default)s)")
    options.add_output(parser)
    return parser.parse_args()


def _row(network: str, dtype: str, gpu: str, batch: int) -> Row:
    config = recipe(network[0], int(network[-1]))
    config.compute_dtype, config.precision = dtype, "default" if dtype == "bfloat16" else config.precision
    try:
        report = step_report(Experiment.of(config), GpuTopology(f"{gpu}:1"), batch, None, kernels=False)
    except InputError as error:
        return Row(network, dtype, gpu, None, str(error))
    return Row(network, dtype, gpu, to_json(report))


if __name__ == "__main__":
    main()
