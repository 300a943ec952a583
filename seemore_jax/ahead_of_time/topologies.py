"""Describes the TPUs that programs are compiled for: the chips, the slices of connected chips, and their devices."""

import dataclasses
import importlib.util
import math
import os
from collections.abc import Sequence

import jax

from seemore_jax.system.errors import InputError

_GIB = 2**30
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
# Variables that libtpu reads when it is loaded. They keep it from looking for a TPU on this machine.
_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """The specification of one chip, or of one of its two devices on TPU7x.

    Attributes:
      hbm_bytes: the HBM that a program can use, in bytes: the available memory according to the compiler's message
        about a program that is too large. For v4, v5e, v6e and TPU7x it is less than the nominal 32, 16, 32 and 96 GiB.
      hbm_bandwidth: the bandwidth of the HBM in bytes/s.
      peak_flops: the bf16 FLOP/s of the matrix units.
      clock: cycles/s. Only the clock of v4 is documented. Those of v5e, v5p and v6e follow from the peak, which is
        2 · clock · multipliers of the matrix units: 4 units of 128² for v5e, 8 of 128² for v5p, 4 of 256² for v6e. The
        clock of TPU7x is that of the compiler's cost analysis, which has 996 TFLOP/s and 4 · 256² multipliers.
      ici_bandwidth: bytes/s of one link to a neighbouring chip, in one direction.
      dcn_bandwidth: bytes/s between pods: the chip's share of the network of its host.
      wraps: an axis of a slice is a ring if its length is a multiple of this number.
      pod: the layout of the largest slice that is assumed.
      layouts: the layouts of all slices.
      devices: number of devices that programs see for each chip.

    Sources: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x} for peak, bandwidth of memory and layouts, and for the
    links of TPU7x; "How to Scale Your Model" (Austin et al., 2025; jax-ml.github.io/scaling-book/tpus) for links, DCN
    and wrap-around; Jouppi et al. 2023 (arXiv 2304.01433) for v4's clock; libtpu 0.0.42.1 for the memory.
    """

    hbm_bytes: int
    hbm_bandwidth: float
    peak_flops: float
    clock: float
    ici_bandwidth: float
    dcn_bandwidth: float
    wraps: int
    pod: str
    layouts: tuple[str, ...]
    devices: int = 1


CHIPS = {
    "v4": Chip(int(30.75 * _GIB), 1228e9, 275e12, 1.05e9, 45e9, 6.25e9, 4, "16x16x16", _CUBES),
    "v5e": Chip(int(15.75 * _GIB), 819e9, 197e12, 1.5e9, 45e9, 3.125e9, 16, "16x16", _FLAT),
    "v5p": Chip(int(95.74 * _GIB), 2765e9, 459e12, 1.75e9, 90e9, 6.25e9, 4, "16x16x16", _CUBES),
    "v6e": Chip(int(31.25 * _GIB), 1640e9, 918e12, 1.75e9, 90e9, 12.5e9, 16, "16x16", _FLAT),
    # A link carries 1200 GB/s divided by six links and two directions. A pod has up to 9,216 chips; 4,096 are assumed.
    "tpu7x": Chip(int(94.75 * _GIB), 3690e9, 1153.5e12, 1.9e9, 100e9, 12.5e9, 4, "16x16x16", _CUBES, devices=2),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of connected TPU chips.

    Attributes:
      name: CHIP:LAYOUT, such as "v5e:2x4".

    Raises:
      InputError: there is no such chip, or no slice of that layout.
    """

    name: str

    def __post_init__(self) -> None:
        kind, _, layout = self.name.partition(":")
        if kind not in CHIPS or layout not in CHIPS[kind].layouts:
            known = "; ".join(f"{k}: {' '.join(chip.layouts)}" for k, chip in CHIPS.items())
            raise InputError(f"topology {self.name!r} is not known; known are CHIP:LAYOUT of {known}")

    @property
    def kind(self) -> str:
        """Returns the kind of chip, such as "v5e"."""
        return self.name.partition(":")[0]

    @property
    def chip(self) -> Chip:
        """Returns the specification of each chip."""
        return CHIPS[self.kind]

    @property
    def sides(self) -> tuple[int, ...]:
        """Returns the number of chips along each axis."""
        return tuple(map(int, self.name.partition(":")[2].split("x")))

    @property
    def chips(self) -> int:
        """Returns the number of chips in the slice."""
        return math.prod(self.sides)

    @property
    def device_count(self) -> int:
        """Returns the number of devices in the slice: one for each chip, or two on TPU7x."""
        return self.chips * self.chip.devices

    def devices(self) -> Sequence[jax.Device]:
        """Returns the devices of the slice. Programs can be compiled for them on a machine without a TPU.

        Raises:
          InputError: libtpu is not installed.
        """
        require_libtpu()
        from jax.experimental import topologies

        options: dict[str, object] = {}
        if self.chips == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        if self.kind == "v4":
            options["chip_config_name"] = "megacore"  # both cores of a chip are one device, as on Cloud TPU
        return topologies.get_topology_desc(self.name, "tpu", **options).devices


def require_libtpu() -> None:
    """Prepares this process for compiling with libtpu on a machine without a TPU.

    This function must run before JAX starts its backends and before libtpu is loaded.

    Raises:
      InputError: libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("compiling for a TPU needs libtpu, which is not installed: pip install 'libtpu==0.0.42.*'")
    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
