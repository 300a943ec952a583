"""What a training step of T ×4 costs on a TPU, from programs compiled ahead of time: no TPU is needed, only libtpu.

    python -m benchmarks.tpu --output build/tpu.json
    python -m benchmarks.tpu --topology v6e:1x1 --implementations tpu --parts group step

For each part, forward and backward, it prints the bytes between chip and HBM and XLA's estimated cycles, both counted
by `seemore_jax.ahead_of_time.program_cost`, the temporary memory and the compile time. XLA has no estimate for calls of
Pallas kernels: their cycles come from the compiler's analysis of the kernel's final instruction bundles, loops
included, for which each kernel is compiled once more by itself (`--no-kernels` leaves that out). Nothing here was
measured on a TPU.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import timing
from configs.release import recipe
from seemore_jax.ahead_of_time.compilation import kernel_cycles
from seemore_jax.ahead_of_time.program_cost import memory_bytes, program_cost
from seemore_jax.ahead_of_time.programs import trace_step
from seemore_jax.ahead_of_time.topologies import Topology, require_libtpu
from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.network.implementations import plain, tpu
from seemore_jax.network.implementations.pallas_stages import Image
from seemore_jax.network.seemore import ResidualGroup
from seemore_jax.system.devices import compiling_for
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.loss import loss_terms

PATCH = 64
PARTS = ("feed_forward", "enhancement", "mixture", "group", "ends", "step")
Traced = Any  # jax.stages.Traced


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is compiled: the experiment, its network, patches for each chip, and one chip of the topology."""

    experiment: Experiment
    config: SeemoReConfig
    batch: int
    devices: Sequence[Any]

    @property
    def sharding(self) -> jax.sharding.Sharding:
        return jax.sharding.SingleDeviceSharding(self.devices[0])


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    part: str
    implementation: str
    hbm_gb: float
    xla_mcycles: float
    kernel_mcycles: float | None
    temp_gb: float
    compile_s: float
    kernels: dict[str, int]

    @property
    def mcycles(self) -> float | None:
        return None if self.kernel_mcycles is None else self.xla_mcycles + self.kernel_mcycles


def main() -> None:
    options = _options()
    require_libtpu()
    cycles: dict[str, int] = {}
    if "tpu" in options.implementations and not options.no_kernels:
        with compiling_for("tpu"):
            group = trace_group_part(_setting(options, "tpu"), "group")
        cycles = kernel_cycles(group.jaxpr.jaxpr, Topology(options.topology))
    rows = []
    for part in options.parts:
        for implementation in options.implementations:
            rows.append(_measure(part, implementation, _setting(options, implementation), cycles))
            print(_line(rows[-1]), flush=True)
    print("\n" + "\n".join([_HEADING, *map(_line, rows)]))
    report = {"topology": options.topology, "batch": options.batch, "rows": [dataclasses.asdict(r) for r in rows]}
    timing.write(options.output, {**report, "kernel_cycles": cycles})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument("--batch", type=int, default=32, help="patches of 64×64 LR for each chip")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--implementations", nargs="+", choices=("plain", "tpu"), default=("plain", "tpu"))
    parser.add_argument("--rematerialize", action="store_true")
    parser.add_argument("--no-kernels", action="store_true", help="leave out the kernels' cycles")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser.parse_args()


def _setting(options: argparse.Namespace, implementation: str) -> Setting:
    config = recipe("T", 4)
    config.compute_dtype, config.precision = "bfloat16", "default"
    config.rematerialize, config.implementation = options.rematerialize, implementation
    experiment = Experiment.of(config)
    devices = Topology(options.topology).devices()[:1]
    return Setting(experiment, experiment.network, options.batch, devices)


_HEADING = f"{'part':14}{'':7}{'HBM GB':>9}{'XLA Mcyc':>10}{'all Mcyc':>10}{'temp GB':>9}{'compile s':>11}"


def _line(row: Row) -> str:
    total = "?" if row.mcycles is None else f"{row.mcycles:.1f}"
    return (
        f"{row.part:14}{row.implementation:7}{row.hbm_gb:9.3f}{row.xla_mcycles:10.1f}{total:>10}"
        f"{row.temp_gb:9.3f}{row.compile_s:11.1f}"
    )


def _measure(part: str, implementation: str, setting: Setting, cycles: dict[str, int]) -> Row:
    with compiling_for("tpu"):
        traced = _TRACED[part](setting)
    start = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - start
    cost = program_cost(compiled.as_text())
    calls: dict[str, int] = {}
    for kernel in cost.kernels:
        calls[kernel.name] = calls.get(kernel.name, 0) + kernel.times
    known = all(name in cycles for name in calls)
    return Row(
        part,
        implementation,
        hbm_gb=cost.hbm_bytes / 1e9,
        xla_mcycles=cost.xla_cycles / 1e6,
        kernel_mcycles=sum(times * cycles[name] for name, times in calls.items()) / 1e6 if known else None,
        temp_gb=memory_bytes(compiled)["temporaries"] / 1e9,
        compile_s=seconds,
        kernels=calls,
    )


# The parts. Each is traced for one chip, with its gradients with respect to weights and input.


def _trace_block(setting: Setting, block: Callable[[Any, Any], Any], weights: Any, x: Any) -> Traced:
    def forward_and_backward(weights: Any, x: Any, cotangent: Any) -> Any:
        y, pull_back = jax.vjp(block, weights, x)
        return y, pull_back(cotangent)

    compiled = jax.jit(forward_and_backward, in_shardings=setting.sharding, out_shardings=setting.sharding)
    return compiled.trace(weights, x, x)


def trace_group_part(setting: Setting, part: str) -> Traced:
    config = setting.config
    graph, parameters = nnx.split(ResidualGroup(config, rngs=_abstract()))
    shape = (setting.batch, PATCH, PATCH, config.embedding_dim)
    if config.implementation == "plain":

        def plain(parameters: Any, x: Any) -> Any:
            group = nnx.merge(graph, parameters)
            local, spatial = group.rank_modulating, group.spatial_modulating
            return {
                "feed_forward": lambda: x + spatial.feed_forward(spatial.norm_2(x)),
                "enhancement": lambda: x + spatial.enhancement(spatial.norm_1(x)),
                "mixture": lambda: x + local.mixture_block(local.norm_1(x))[0],
                "group": lambda: group(x)[0],
            }[part]()

        return _trace_block(setting, plain, parameters, jax.ShapeDtypeStruct(shape, jnp.bfloat16))

    image = Image.of(PATCH, PATCH, config)

    def fused(parameters: Any, x: Any) -> Any:
        weights = tpu.group_weights(nnx.merge(graph, parameters), image, config)
        return {
            "feed_forward": lambda: tpu.apply_feed_forward(weights.feed_forwards[1], x, image),
            "enhancement": lambda: tpu.apply_enhancement(weights.enhancement, x, image, config),
            "mixture": lambda: tpu.apply_mixture(weights, x, image, config)[0],
            "group": lambda: tpu.apply_group(weights, x, image, config)[0],
        }[part]()

    maps = jax.ShapeDtypeStruct((setting.batch, image.rows, image.lanes), jnp.bfloat16)
    return _trace_block(setting, fused, parameters, maps)


def _trace_ends(setting: Setting) -> Traced:
    """Head, tail and loss: the network without its groups."""
    config = setting.config
    graph, parameters = nnx.split(SeemoRe.abstract(config))
    lr = jax.ShapeDtypeStruct((setting.batch, PATCH, PATCH, 3), jnp.float32)
    hr = jax.ShapeDtypeStruct((setting.batch, PATCH * config.scale, PATCH * config.scale, 3), jnp.float32)

    def no_groups(groups: Any, x: Any, config: Any) -> Any:
        return x, None

    def loss(parameters: Any, lr: Any, hr: Any) -> Any:
        sr, _ = plain.apply_network(nnx.merge(graph, parameters), lr, groups=no_groups)
        return loss_terms(sr, hr).total

    gradient = jax.jit(jax.grad(loss), in_shardings=setting.sharding, out_shardings=setting.sharding)
    return gradient.trace(parameters, lr, hr)


def _trace_step(setting: Setting) -> Traced:
    """The real training step."""
    return trace_step(setting.experiment, setting.devices, setting.batch)


def _abstract() -> Any:
    from seemore_jax.network.layers import Abstract

    return Abstract()


_TRACED: dict[str, Callable[[Setting], Traced]] = {
    "ends": _trace_ends,
    "step": _trace_step,
    **{
        part: lambda setting, part=part: trace_group_part(setting, part)  # type: ignore[misc]
        for part in ("feed_forward", "enhancement", "mixture", "group")
    },
}


if __name__ == "__main__":
    main()
