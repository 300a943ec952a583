"""Compiles the kernels for GPUs, and the network with them, without a GPU: registers, spills, traffic, launches.

    pip install 'jax[cuda12]'    # in an environment of its own: 5.5 GB
    python -m benchmarks.gpu_kernels --output build/gpu_kernels.json
    python -m benchmarks.gpu_kernels --networks --architectures sm_90    # registers and spills alone
    python -m benchmarks.gpu_kernels --networks T-x4 B-x4 --gpus h100

The first table has one line for each kernel, width and type: the widths are those of T (36) and of B and L (48); the
scale does not change them. NVRTC makes the PTX; ptxas counts registers and spilled bytes, for each architecture.
The second table has the inference of one image by T ×4, by the plain network and by the kernels, for an H100: the
memory traffic as `seemore_jax.ahead_of_time.program_cost` counts it, and the launches. A GPU tunes what XLA compiles,
so that the figures of the plain network are an upper bound. The third has the kernels in each of the nine networks, for
a GPU of each architecture, and the milliseconds that the traffic takes at the bandwidth of the GPU's memory, with 1 µs
for each launch: a lower bound. Nothing here is measured on a GPU.
"""

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tqdm.auto import tqdm

from benchmarks.harness import options, records, tables
from seemore_jax.ahead_of_time.gpus import GPUS, LAUNCH_SECONDS, GpuTopology
from seemore_jax.ahead_of_time.program_cost import memory_bytes, program_cost
from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.network.implementations.simt import device
from seemore_jax.network.implementations.simt.variants import THREADS, Variant, variants_of
from seemore_jax.system.devices import compiling_for

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100")
EACH_ARCHITECTURE = ("a100", "a10", "rtx4090", "h100", "b200")
NETWORKS = tuple(f"{name}-x{scale}" for name in "TBL" for scale in (2, 3, 4))
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a kernel takes on an architecture: registers of a thread, its spilled bytes, shared memory of a block."""

    kernel: str
    channels: int
    compute_dtype: str
    architecture: str
    registers: int
    spilled_bytes: int
    shared_bytes: int


@dataclasses.dataclass(frozen=True)
class Inference:
    """Cost of one inference of a compiled network. `bound_ms` is the least time that memory and launches take."""

    network: str
    implementation: str
    compute_dtype: str
    gpu: str
    bound_ms: float
    hbm_gb: float
    launches: int
    kernels: int
    temporaries_gb: float
    compile_s: float


def main() -> None:
    chosen = _options()
    if missing := missing_tools():
        sys.exit(f"benchmarks.gpu_kernels: {missing}")
    start = time.perf_counter()
    found = [resources for variant in network_variants() for resources in compiled(variant, chosen.architectures)]
    print(_resources_table(found), flush=True)
    inferences: list[Inference] = []
    if chosen.networks:
        _prepare_xla()
        compared = [inference("T-x4", i, d, "h100", *chosen.size) for d in DTYPES for i in ("plain", "gpu")]
        print("\n" + _inference_table(compared), flush=True)
        every = [(n, d, g) for n in chosen.networks for d in DTYPES for g in chosen.gpus]
        inferences = [
            inference(network, "gpu", dtype, kind, *chosen.size)
            for network, dtype, kind in tqdm(every, unit="program", disable=None)
        ]
        print("\n" + _networks_table(inferences))
        inferences = [*compared, *inferences]
    print("\n" + records.footer(time.perf_counter() - start))
    spilled = [f"this kernel spills: {resources}" for resources in found if resources.spilled_bytes]
    report = {"kernels": list(map(dataclasses.asdict, found)), "network": list(map(dataclasses.asdict, inferences))}
    records.finish(chosen.output, {"size": chosen.size, **report}, spilled)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES, help="(default: all)"
    )
    parser.add_argument("--size", type=options.image_size, default=(640, 480), help="WxH (default: 640x480)")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=NETWORKS, help="(default: all)")
    parser.add_argument(
        "--gpus", nargs="+", choices=sorted(GPUS), default=EACH_ARCHITECTURE, help="(default: %(default)s)"
    )
    options.add_output(parser)
    return parser.parse_args()


def missing_tools() -> str:
    """Returns what is not installed; an empty string if everything is."""
    if reason := device.unavailable_reason():
        return reason
    return "" if device.installed("*/bin/ptxas") else "ptxas is not installed; pip install 'jax[cuda12]' brings it"


def network_variants() -> Iterator[Variant]:
    """Yields the kernels of T, and of B and L, in both types."""
    for name in ("T", "L"):
        for compute_dtype in DTYPES:
            yield from variants_of(SeemoReConfig.variant(name, 4, compute_dtype=compute_dtype))


def compiled(variant: Variant, architectures: tuple[str, ...]) -> Iterator[Resources]:
    """Compiles a kernel by NVRTC and ptxas.

    Args:
      variant: the kernel.
      architectures: architectures such as "sm_90".

    Yields:
      What the kernel takes on each of them.
    """
    ptxas = device.installed("*/bin/ptxas")[-1]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(device.ptx(variant))
        for architecture in architectures:
            command = [str(ptxas), "-v", f"--gpu-name={architecture}", str(source), "-o", f"{folder}/kernel.cubin"]
            printed = subprocess.run(command, capture_output=True, text=True, check=True)
            text = printed.stdout + printed.stderr
            registers, spilled = (
                sum(map(int, re.findall(pattern, text))) for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill")
            )
            kind = variant.name, variant.channels, variant.compute_dtype, architecture
            yield Resources(*kind, registers, spilled, variant.shared_bytes)


def _prepare_xla() -> None:
    """Makes JAX ready to compile for a GPU that is not there. Call it before anything is computed."""
    toolkits = [path.parents[1] for path in device.installed("*/bin/ptxas")]
    flags = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags} --xla_gpu_cuda_data_dir={toolkits[-1]}"
    jax.config.update("jax_platforms", "cpu")
    jax.extend.backend.backends()  # loads the plugin for CUDA


def inference(network: str, implementation: str, compute_dtype: str, kind: str, width: int, height: int) -> Inference:
    """Compiles the inference of one image.

    Args:
      network: name of the network, such as "T-x4".
      implementation: "plain" or "gpu".
      compute_dtype: "float32" or "bfloat16".
      kind: name of the GPU, such as "h100".
      width, height: size of the image in LR pixels.
    """
    sharding = jax.sharding.SingleDeviceSharding(GpuTopology(f"{kind}:1").devices()[0])
    precision = "highest" if compute_dtype == "float32" else "default"
    fields: dict[str, Any] = {"compute_dtype": compute_dtype, "precision": precision}
    config = SeemoReConfig.variant(network[0], int(network[-1]), implementation=implementation, **fields)
    graph, parameters = nnx.split(SeemoRe.abstract(config))

    def upscale(parameters: nnx.State, lr: jax.Array) -> jax.Array:
        return nnx.merge(graph, parameters)(lr)

    shapes = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        (parameters, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)),
    )
    start = time.perf_counter()
    with compiling_for("gpu"):
        program = jax.jit(upscale).trace(*shapes).lower(lowering_platforms=("cuda",)).compile()
    seconds = time.perf_counter() - start
    text = program.as_text()
    assert text is not None
    cost = program_cost(text)
    return Inference(
        *(network, implementation, compute_dtype, kind),
        bound_ms=1e3 * (cost.hbm_bytes / GPUS[kind].hbm_bandwidth + cost.kernel_launches * LAUNCH_SECONDS),
        hbm_gb=cost.hbm_bytes / 1e9,
        launches=cost.kernel_launches,
        kernels=text.count('custom_call_target="__gpu$xla.gpu.ptx"'),
        temporaries_gb=memory_bytes(program)["temporaries"] / 1e9,
        compile_s=seconds,
    )


def _resources_table(found: list[Resources]) -> str:
    """Returns a table with a line for each kernel, and a column for each architecture."""
    architectures = list(dict.fromkeys(resources.architecture for resources in found))
    lines: dict[tuple[str, int, str], list[Resources]] = {}
    for resources in found:
        lines.setdefault((resources.kernel, resources.channels, resources.compute_dtype), []).append(resources)
    header = ["kernel", "channels", "type", "shared kB", *(f"registers {a}" for a in architectures), "spilled bytes"]
    rows = [
        [kernel, str(channels), compute_dtype, f"{of[0].shared_bytes / 1000:.1f}"]
        + [str(resources.registers) for resources in of]
        + [str(sum(resources.spilled_bytes for resources in of))]
        for (kernel, channels, compute_dtype), of in lines.items()
    ]
    return f"{THREADS} threads a block\n\n{tables.aligned(header, rows)}"


def _inference_table(inferences: list[Inference]) -> str:
    header = ["implementation", "type", "traffic GB", "launches", "fused kernels", "temporaries GB", "compiled in s"]
    rows = [
        [
            *(i.implementation, i.compute_dtype, f"{i.hbm_gb:.2f}", str(i.launches), str(i.kernels)),
            *(f"{i.temporaries_gb:.2f}", f"{i.compile_s:.0f}"),
        ]
        for i in inferences
    ]
    return tables.aligned(header, rows)


def _networks_table(inferences: list[Inference]) -> str:
    """Returns a table with a line for each network and type, and a column for each GPU."""
    gpus = list(dict.fromkeys(i.gpu for i in inferences))
    lines: dict[tuple[str, str], list[Inference]] = {}
    for found in inferences:
        lines.setdefault((found.network, found.compute_dtype), []).append(found)
    header = ["network", "type", *(f"{kind}: GB, launches, ms" for kind in gpus)]
    rows = [
        [*line, *(f"{of.hbm_gb:.2f}, {of.launches}, {of.bound_ms:.2f}" for of in found)]
        for line, found in lines.items()
    ]
    return tables.aligned(header, rows)


if __name__ == "__main__":
    main()
