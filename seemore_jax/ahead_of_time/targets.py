"""Names what programs can be compiled for, TPUs or GPUs, and hides which of the two it is from the report."""

from collections.abc import Sequence

from seemore_jax.ahead_of_time import gpu_network, roofline
from seemore_jax.ahead_of_time.gpus import GPUS, KNOWN, LAUNCH_SECONDS, Gpu, GpuTopology, require_cuda_plugin
from seemore_jax.ahead_of_time.program_cost import ProgramCost
from seemore_jax.ahead_of_time.topologies import Topology, require_libtpu
from seemore_jax.system.errors import InputError

Target = Topology | GpuTopology


def target(name: str) -> Target:
    """Returns what a name such as "v5e:2x4" or "h100:8" stands for.

    Args:
      name: CHIP:LAYOUT of a TPU slice, or GPU:COUNT or GPU:COUNTxHOSTS.

    Raises:
      InputError: there is no such chip or GPU, or no such layout.
    """
    if name.partition(":")[0] in GPUS:
        return GpuTopology(name)
    try:
        return Topology(name)
    except InputError as error:
        raise InputError(f"{error}; {KNOWN}") from None


def require_compiler(one: Target) -> None:
    """Prepares this process so that it can compile for a target. Call it before JAX starts its backends.

    Args:
      one: the target.

    Raises:
      InputError: its compiler is not installed: libtpu, or JAX's CUDA plugin.
    """
    if isinstance(one, GpuTopology):
        require_cuda_plugin()
    else:
        require_libtpu()


def all_reduce_seconds(payload: int, one: Target) -> float:
    """Estimates the time of an all-reduce.

    Args:
      payload: bytes on each chip.
      one: the target.

    Returns:
      Seconds; 0 for a single chip.
    """
    if isinstance(one, GpuTopology):
        return gpu_network.all_reduce_seconds(payload, one)
    return roofline.all_reduce_seconds(payload, one)


def predict_scaling(computing: float, payload: int, one: Target) -> list[roofline.ScalingPrediction]:
    """Predicts the efficiency for 8, 256 and 4,096 chips of the same kind with the same batch on each chip.

    Args:
      computing: seconds of a step without communication.
      payload: bytes that are reduced in each step, on each chip.
      one: the target.

    Returns:
      One prediction for each number of chips.
    """
    if isinstance(one, GpuTopology):
        return gpu_network.predict_scaling(computing, payload, one.kind)
    return roofline.predict_scaling(computing, payload, one.kind)


def estimate(
    one: Target, cost: ProgramCost, *, flops: int, cycles: int, network: float, dtype: str
) -> roofline.Roofline:
    """Estimates the time of a program.

    Args:
      one: the target.
      cost: the cost of the program.
      flops: FLOPs of matrix products on one chip, as `matrix_flops` counts them.
      cycles: cycles on one TPU chip, as the compiler estimates them; not read for GPUs.
      network: the time of the communication in seconds.
      dtype: the type in which the network computes. The products of a GPU take the peak of this type; those of a TPU
        take the bf16 peak, whatever the type.

    Returns:
      The seconds of each resource.
    """
    chip = one.chip
    if not isinstance(chip, Gpu):
        return roofline.roofline(chip, flops=flops, cycles=cycles, hbm_bytes=cost.hbm_bytes, network=network)
    peak = chip.peak_flops if dtype == "bfloat16" else chip.float32_flops
    launches = cost.kernel_launches * LAUNCH_SECONDS
    return roofline.Roofline(flops / peak, 0.0, cost.hbm_bytes / chip.hbm_bandwidth, network, launches)


def assumptions(names: Sequence[str]) -> list[str]:
    """Returns the lines below a table that say what its estimates assume.

    Args:
      names: the names of the targets in the table.
    """
    on_gpus = [isinstance(target(name), GpuTopology) for name in names]
    return [*(() if all(on_gpus) else _TPU_ASSUMPTIONS), *(_GPU_ASSUMPTIONS if any(on_gpus) else ())]


_TPU_ASSUMPTIONS = (
    "Nothing was measured on a TPU. The estimate of a step is the longest of three times: matrix products at the bf16",
    "peak, the compiler's cycles at the chip's clock, and HBM traffic at the full bandwidth. The all-reduce comes",
    "after it, without overlap. Reading the batches is assumed to take no time.",
)
_GPU_ASSUMPTIONS = (
    "Nothing was measured on a GPU. The estimate of a step is the longer of two times, matrix products at the peak of",
    "their type, and HBM traffic at the full bandwidth without help from the L2 cache; and 1 µs for each kernel. The",
    "all-reduce comes after it, without overlap. Reading the batches is assumed to take no time. The compiler had no",
    "GPU to autotune on. Of the memory, programs have the 75 % that JAX allocates by default.",
)
