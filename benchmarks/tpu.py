"""Estimates the cost of a training step of T ×4 on a TPU from compiled programs: no TPU is needed, only libtpu.

    python -m benchmarks.tpu --output build/tpu.json
    python -m benchmarks.tpu --topology v6e:1x1 --implementations tpu --parts group step

For each part, forward and backward, it prints the bytes between chip and HBM and XLA's estimated cycles (both counted
by `seemore_jax.ahead_of_time.program_cost`), the temporary memory and the compile time. XLA has no estimate for calls
of Pallas kernels. Their cycles come from the compiler's analysis of the final instructions of each kernel, with loops;
each kernel is compiled once more by itself for that (`--no-kernels` leaves it out). Nothing here is measured on a TPU.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.harness import options, records
from seemore_jax.ahead_of_time.compilation import kernel_cycles
from seemore_jax.ahead_of_time.program_cost import memory_bytes, program_cost
from seemore_jax.ahead_of_time.programs import trace_step
from seemore_jax.ahead_of_time.topologies import Topology, require_libtpu
from seemore_jax.configs.release import recipe
from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.network.implementations import tpu
from seemore_jax.network.implementations.pallas_stages import MapShape
from seemore_jax.network.implementations.tpu_weights import group_weights
from seemore_jax.network.layers import Abstract
from seemore_jax.network.seemore import ResidualGroup
from seemore_jax.system.devices import compiling_for
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.loss import loss_terms

PATCH = 64
PARTS = ("feed_forward", "enhancement", "mixture", "group", "ends", "step")
Traced = Any  # jax.stages.Traced


@dataclasses.dataclass(frozen=True)
class Setting:
    """Describes what is compiled: an experiment, its network, the patches for each chip, and one chip of a topology."""

    experiment: Experiment
    config: SeemoReConfig
    batch: int
    devices: Sequence[Any]

    @property
    def sharding(self) -> jax.sharding.Sharding:
        """Returns the placement of all arrays on the one chip."""
        return jax.sharding.SingleDeviceSharding(self.devices[0])


@dataclasses.dataclass(frozen=True)
class Row:
    """Holds one line of the table; `kernels` counts the calls of each Pallas kernel."""

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
        """Returns millions of cycles of the whole part, or None if those of a kernel are unknown."""
        return None if self.kernel_mcycles is None else self.xla_mcycles + self.kernel_mcycles


def main() -> None:
    chosen = _options()
    require_libtpu()
    cycles: dict[str, int] = {}
    if "tpu" in chosen.implementations and not chosen.no_kernels:
        setting = _setting(chosen, "tpu")
        with compiling_for("tpu", setting.devices[0].device_kind):
            programs = trace_group_part(setting, "group"), _trace_ends(setting)
        for program in programs:
            cycles |= kernel_cycles(program.jaxpr.jaxpr, Topology(chosen.topology))
    rows = []
    for part in chosen.parts:
        for implementation in chosen.implementations:
            rows.append(_measure(part, implementation, _setting(chosen, implementation), cycles))
            print(_line(rows[-1]), flush=True)
    print("\n" + "\n".join([_HEADING, *map(_line, rows)]))
    report = {"topology": chosen.topology, "batch": chosen.batch, "rows": [dataclasses.asdict(r) for r in rows]}
    records.finish(chosen.output, {**report, "kernel_cycles": cycles})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:1x1", help="kind and layout of the chips (default: %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=32, help="patches of 64×64 LR pixels for each chip (default: %(default)s)"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument(
        "--implementations", nargs="+", choices=("plain", "tpu"), default=("plain", "tpu"), help="(default: both)"
    )
    parser.add_argument("--rematerialize", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument("--no-kernels", action="store_true", help="leave out the cycles of the Pallas kernels")
    options.add_output(parser)
    return parser.parse_args()


def _setting(chosen: argparse.Namespace, implementation: str) -> Setting:
    config = recipe("T", 4)
    config.compute_dtype, config.precision = "bfloat16", "default"
    config.rematerialize, config.implementation = chosen.rematerialize, implementation
    experiment = Experiment.of(config)
    devices = Topology(chosen.topology).devices()[:1]
    return Setting(experiment, experiment.network, chosen.batch, devices)


_HEADING = f"{'part':14}{'':7}{'HBM GB':>9}{'XLA Mcyc':>10}{'all Mcyc':>10}{'temp GB':>9}{'compile s':>11}"


def _line(row: Row) -> str:
    total = "?" if row.mcycles is None else f"{row.mcycles:.1f}"
    return (
        f"{row.part:14}{row.implementation:7}{row.hbm_gb:9.3f}{row.xla_mcycles:10.1f}{total:>10}"
        f"{row.temp_gb:9.3f}{row.compile_s:11.1f}"
    )


def _measure(part: str, implementation: str, setting: Setting, cycles: dict[str, int]) -> Row:
    with compiling_for("tpu", setting.devices[0].device_kind):
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


# The functions below trace the parts, each for one chip with the gradients with respect to weights and input.


def _trace_block(setting: Setting, block: Callable[[Any, Any], Any], weights: Any, x: Any) -> Traced:
    def forward_and_backward(weights: Any, x: Any, cotangent: Any) -> Any:
        y, pull_back = jax.vjp(block, weights, x)
        return y, pull_back(cotangent)

    compiled = jax.jit(forward_and_backward, in_shardings=setting.sharding, out_shardings=setting.sharding)
    return compiled.trace(weights, x, x)


def trace_group_part(setting: Setting, part: str) -> Traced:
    """Traces a residual group or a part of it, in the plain or in the fused implementation."""
    if setting.config.implementation == "plain":
        return _trace_plain_part(setting, part)
    return _trace_fused_part(setting, part)


def _trace_plain_part(setting: Setting, part: str) -> Traced:
    graph, parameters = nnx.split(ResidualGroup(setting.config, rngs=Abstract()))

    def plain(parameters: Any, x: Any) -> Any:
        group = nnx.merge(graph, parameters)
        local, spatial = group.rank_modulating, group.spatial_modulating
        return {
            "feed_forward": lambda: x + spatial.feed_forward(spatial.norm_2(x)),
            "enhancement": lambda: x + spatial.enhancement(spatial.norm_1(x)),
            "mixture": lambda: x + local.mixture_block(local.norm_1(x))[0],
            "group": lambda: group(x)[0],
        }[part]()

    shape = (setting.batch, PATCH, PATCH, setting.config.embedding_dim)
    return _trace_block(setting, plain, parameters, jax.ShapeDtypeStruct(shape, jnp.bfloat16))


def _trace_fused_part(setting: Setting, part: str) -> Traced:
    config = setting.config
    graph, parameters = nnx.split(ResidualGroup(config, rngs=Abstract()))
    shape = MapShape.of(PATCH, PATCH, config)

    def fused(parameters: Any, x: Any) -> Any:
        weights = group_weights(nnx.merge(graph, parameters), shape, config)
        return {
            "feed_forward": lambda: tpu.apply_feed_forward(weights.feed_forwards[1], x, shape),
            "enhancement": lambda: tpu.apply_enhancement(weights.enhancement, x, shape, config),
            "mixture": lambda: tpu.apply_mixture(weights, x, shape, config)[0],
            "group": lambda: tpu.apply_group(weights, x, shape, config)[0],
        }[part]()

    maps = jax.ShapeDtypeStruct((setting.batch, shape.rows, shape.lanes), jnp.bfloat16)
    return _trace_block(setting, fused, parameters, maps)


def _trace_ends(setting: Setting) -> Traced:
    """Traces head, tail and loss: the network without its groups."""
    config = setting.config
    graph, parameters = nnx.split(SeemoRe.abstract(config))
    lr = jax.ShapeDtypeStruct((setting.batch, PATCH, PATCH, 3), jnp.float32)
    hr = jax.ShapeDtypeStruct((setting.batch, PATCH * config.scale, PATCH * config.scale, 3), jnp.float32)

    def loss(parameters: Any, lr: Any, hr: Any) -> Any:
        model = nnx.merge(graph, parameters)
        shallow = model.extract(lr)
        if config.implementation == "plain":
            return loss_terms(model.reconstruct(shallow, shallow), hr).total
        shape = MapShape.of(PATCH, PATCH, config)
        maps = tpu.to_map(shallow, shape)
        return loss_terms(tpu.reconstruct(model, maps, maps, shape), hr).total

    gradient = jax.jit(jax.grad(loss), in_shardings=setting.sharding, out_shardings=setting.sharding)
    return gradient.trace(parameters, lr, hr)


def _trace_step(setting: Setting) -> Traced:
    """Traces the training step that a training run uses."""
    return trace_step(setting.experiment, setting.devices, setting.batch)


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
