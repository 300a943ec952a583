"""The TPUs that programs are compiled for: what a chip has, how chips are connected, and how libtpu is asked."""

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
# libtpu looks for the TPU machine that it is on, and complains; it reads these when it is loaded.
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
    """What one chip has.

    Attributes:
      hbm_bytes: memory that a program can have: what the compiler's message about a program that is too large calls
        available, which is less than the chip's 16, 95, 32 and 32 GiB.
      hbm_bandwidth: bytes/s of that memory.
      peak_flops: bf16 FLOP/s of the matrix units.
      clock: cycles/s. The documentation has v4's only; the others follow from the peak, which is clock · 2 · the
        multipliers of the matrix units: v5e 4 of 128², v5p 8 of 128², v6e 4 of 256².
      ici_bandwidth: bytes/s of one link to a neighbour, in one direction.
      dcn_bandwidth: bytes/s of a chip's share of its host's network, for what crosses pods.
      wraps: length of an axis of the torus from whose multiples on its ends are connected.
      pod: layout of the largest slice.
      layouts: the slices that can be had.

    Sources: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} for peak, bandwidth of memory and layouts; "How to Scale Your
    Model" (Austin et al., 2025; jax-ml.github.io/scaling-book/tpus) for links, DCN and wrap-around; Jouppi et al.
    2023 (arXiv 2304.01433) for v4's clock; libtpu 0.0.42.1 for the memory.
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


CHIPS = {
    "v4": Chip(int(30.75 * _GIB), 1228e9, 275e12, 1.05e9, 45e9, 6.25e9, 4, "16x16x16", _CUBES),
    "v5e": Chip(int(15.75 * _GIB), 819e9, 197e12, 1.5e9, 45e9, 3.125e9, 16, "16x16", _FLAT),
    "v5p": Chip(int(95.74 * _GIB), 2765e9, 459e12, 1.75e9, 90e9, 6.25e9, 4, "16x16x16", _CUBES),
    "v6e": Chip(int(31.25 * _GIB), 1640e9, 918e12, 1.75e9, 90e9, 12.5e9, 16, "16x16", _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of connected chips, such as v5e:2x4.

    Raises:
      InputError: no such chip, or no slice of that layout.
    """

    name: str

    def __post_init__(self) -> None:
        kind, _, layout = self.name.partition(":")
        if kind not in CHIPS or layout not in CHIPS[kind].layouts:
            known = "; ".join(f"{k}: {' '.join(chip.layouts)}" for k, chip in CHIPS.items())
            raise InputError(f"topology {self.name!r} is not known; known are CHIP:LAYOUT of {known}")

    @property
    def kind(self) -> str:
        """Such as v5e."""
        return self.name.partition(":")[0]

    @property
    def chip(self) -> Chip:
        """What each chip has."""
        return CHIPS[self.kind]

    @property
    def sides(self) -> tuple[int, ...]:
        """Chips along each axis."""
        return tuple(map(int, self.name.partition(":")[2].split("x")))

    @property
    def chips(self) -> int:
        """Chips in all."""
        return math.prod(self.sides)

    def devices(self) -> Sequence[jax.Device]:
        """One device for each chip, to compile for with no TPU here.

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
    """Lets this process compile with libtpu and look for no TPU; to be called before JAX or libtpu has started.

    Raises:
      InputError: libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("compiling for a TPU needs libtpu, which is not installed: pip install 'libtpu==0.0.42.*'")
    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
