"""Describes the NVIDIA GPUs that programs are compiled for: the devices, the hosts that they are in, and their network.

JAX's CUDA plugin compiles for a GPU that this machine does not have from a text that describes it. The compiler then
cannot try which of several ways to compute a product or a convolution is the fastest, as it does on a real GPU
(autotuning), so the figures of its programs are an upper bound.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax

from seemore_jax.system.errors import InputError

# The share of a device's memory that JAX allocates if XLA_PYTHON_CLIENT_MEM_FRACTION does not set another one.
MEMORY_FRACTION = 0.75
# Seconds between two kernels in which the device computes nothing. This is an assumption for kernels that XLA starts
# from a CUDA graph; NVIDIA's "Getting Started with CUDA Graphs" (2019) has 0.5 to 0.9 µs on a V100.
LAUNCH_SECONDS = 1e-6
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory}
  shared_memory_per_block_optin: {block_shared_memory}
  threads_per_core_limit: {threads}
  core_count: {cores}
  fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {l2_bytes}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The specification of one GPU.

    Attributes:
      name: the name that the driver reports.
      capability: the compute capability, such as (9, 0).
      memory_bytes: the memory that the driver reports, in bytes.
      hbm_bandwidth: the bandwidth of the memory in bytes/s, whether it is HBM or GDDR.
      peak_flops: the bf16 FLOP/s of the tensor cores, for dense matrices, accumulated in float32.
      float32_flops: the FLOP/s of the other cores in float32.
      clock: cycles/s, boosted.
      cores: the number of streaming multiprocessors.
      fpus: float32 units of each of them.
      l2_bytes: the size of the L2 cache in bytes.
      link_bandwidth: bytes/s of a GPU to the others of its host, in one direction: NVLink, or else PCIe.
      host_bandwidth: bytes/s of a GPU to other hosts, in one direction.

    Sources: NVIDIA's data sheets and architecture white papers of B200 (HGX), H100 (SXM5, 80 GB), H200 (SXM), A100
    (SXM4, 40 GB), A10, L4 and Ada (GeForce RTX 4090) for peaks, bandwidths, clocks and caches; the DGX B200, H100, H200
    and A100 data sheets for the network (a port of 400 or 200 Gbit/s for each GPU). That a host with A10, L4 or RTX
    4090 has a port of 100 Gbit/s for its GPUs together, and eight of them, is an assumption. The memory of a B200, an
    H200, an A10 and an L4 is rounded down.
    """

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    hbm_bandwidth: float
    peak_flops: float
    float32_flops: float
    clock: float
    cores: int
    fpus: int
    l2_bytes: int
    link_bandwidth: float
    host_bandwidth: float

    @property
    def devices(self) -> int:
        """Returns the number of devices that programs see for each GPU."""
        return 1

    @property
    def hbm_bytes(self) -> int:
        """Returns the memory that a program can use, in bytes: the share that JAX allocates by default."""
        return int(MEMORY_FRACTION * self.memory_bytes)

    @property
    def description(self) -> str:
        """Returns the text from which XLA compiles for this GPU, a `GpuTargetConfigProto`.

        Source of the limits of each capability: "Technical Specifications per Compute Capability" in the CUDA C++
        Programming Guide.
        """
        shared, block, threads = _LIMITS[self.capability]
        return _DESCRIPTION.format(
            shared_memory=shared,
            block_shared_memory=block,
            threads=threads,
            cores=self.cores,
            fpus=self.fpus,
            bandwidth=int(self.hbm_bandwidth),
            l2_bytes=self.l2_bytes,
            clock=self.clock / 1e9,
            memory=self.memory_bytes,
            major=self.capability[0],
            minor=self.capability[1],
            name=self.name,
        )


# Bytes of shared memory for each multiprocessor and for each block, and threads for each multiprocessor.
_LIMITS = {
    (8, 0): (167936, 166912, 2048),
    (8, 6): (102400, 101376, 1536),
    (8, 9): (102400, 101376, 1536),
    (9, 0): (233472, 232448, 2048),
    (10, 0): (233472, 232448, 2048),
}
_MIB, _GIB = 2**20, 2**30
GPUS: Mapping[str, Gpu] = {
    "a10": Gpu("NVIDIA A10", (8, 6), 22 * _GIB, 600e9, 125e12, 31.2e12, 1.695e9, 72, 128, 6 * _MIB, 32e9, 1.5625e9),
    "a100": Gpu(
        "NVIDIA A100-SXM4-40GB",
        (8, 0),
        42_505_273_344,
        1555e9,
        312e12,
        19.5e12,
        1.41e9,
        108,
        64,
        40 * _MIB,
        300e9,
        25e9,
    ),
    "b200": Gpu("NVIDIA B200", (10, 0), 178 * _GIB, 8000e9, 2250e12, 75e12, 1.965e9, 148, 128, 126 * _MIB, 900e9, 50e9),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3", (9, 0), 84_929_347_584, 3352e9, 989e12, 67e12, 1.98e9, 132, 128, 50 * _MIB, 450e9, 50e9
    ),
    "h200": Gpu("NVIDIA H200", (9, 0), 139 * _GIB, 4800e9, 989e12, 67e12, 1.98e9, 132, 128, 50 * _MIB, 450e9, 50e9),
    "l4": Gpu("NVIDIA L4", (8, 9), 22 * _GIB, 300e9, 121e12, 30.3e12, 2.04e9, 58, 128, 48 * _MIB, 32e9, 1.5625e9),
    "rtx4090": Gpu(
        *("NVIDIA GeForce RTX 4090", (8, 9), 25_390_809_088, 1008e9, 165.2e12, 82.6e12, 2.52e9),
        *(128, 128, 72 * _MIB, 32e9, 1.5625e9),
    ),
}

# What a message says about the names of `GpuTopology`.
KNOWN = f"GPU:COUNT, such as h100:8, and GPU:COUNTxHOSTS, such as h100:8x4, of {' '.join(GPUS)}"


@dataclasses.dataclass(frozen=True)
class GpuTopology:
    """GPUs of one kind, in one or several hosts.

    Attributes:
      name: GPU:COUNT for one host, such as "h100:8", or GPU:COUNTxHOSTS, such as "h100:8x4".

    Raises:
      InputError: there is no such GPU, or a number is missing or below 1.
    """

    name: str
    platform: ClassVar[str] = "gpu"

    def __post_init__(self) -> None:
        kind, _, layout = self.name.partition(":")
        if kind not in GPUS or not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})?", layout):
            raise InputError(f"topology {self.name!r} is not known; known are {KNOWN}")

    @property
    def kind(self) -> str:
        """Returns the kind of GPU, such as "h100"."""
        return self.name.partition(":")[0]

    @property
    def chip(self) -> Gpu:
        """Returns the specification of each GPU."""
        return GPUS[self.kind]

    @property
    def gpus_per_host(self) -> int:
        """Returns the number of GPUs in each host."""
        return int(self.name.partition(":")[2].partition("x")[0])

    @property
    def hosts(self) -> int:
        """Returns the number of hosts."""
        return int(self.name.partition(":")[2].partition("x")[2] or 1)

    @property
    def chips(self) -> int:
        """Returns the number of GPUs in all hosts together."""
        return self.gpus_per_host * self.hosts

    @property
    def device_count(self) -> int:
        """Returns the number of devices that programs see, which are the GPUs."""
        return self.chips

    def devices(self) -> Sequence[jax.Device]:
        """Returns one device for each GPU. Programs can be compiled for these devices on a machine without a GPU.

        Raises:
          InputError: the CUDA plugin is not installed.
        """
        require_cuda_plugin()
        from jax.experimental import topologies

        jax.devices()  # registers the plugin
        shape = f"1x{self.hosts}x{self.gpus_per_host}"
        options: dict[str, Any] = {"target_config": self.chip.description, "topology": shape}
        return topologies.get_topology_desc("gpus", "cuda", **options).devices


def require_cuda_plugin() -> None:
    """Prepares this process for compiling with the CUDA plugin on a machine without a GPU.

    This function must run before JAX starts its backends.

    Raises:
      InputError: the plugin is not installed.
    """
    if not any(importlib.util.find_spec(name) for name in _PLUGINS):
        raise InputError(
            "compiling for a GPU needs JAX's CUDA plugin, which is not installed: "
            f"pip install 'jax[cuda12]=={jax.__version__}'"
        )
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")


# XLA's message where it finds no tiles for a matrix product without autotuning.
NO_TILES = "Couldn't find output tile sizes"


def compiler_options(*, fused_products: bool = True) -> dict[str, Any]:
    """Returns the options with which XLA compiles for a GPU that this machine does not have.

    Args:
      fused_products: whether XLA fuses matrix products with what comes before and after them, by Triton, as it does by
        default. There is nothing to autotune on here, and without autotuning XLA finds no tiles for some products
        (`NO_TILES`), as for the resizing by a factor that is not whole. Without fusion, cuBLAS computes all products.
    """
    options: dict[str, Any] = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": fused_products}
    found = importlib.util.find_spec("nvidia")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / "cuda_nvcc").is_dir():
            options["xla_gpu_cuda_data_dir"] = str(Path(folder) / "cuda_nvcc")
    return options
