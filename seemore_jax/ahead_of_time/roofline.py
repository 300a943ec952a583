"""Estimates the time of a step and of its communication, from the compiler's figures and the chip's specification."""

import dataclasses
import math

from seemore_jax.ahead_of_time.topologies import Chip, Topology

# Latency between neighbouring chips, in seconds: "How to Scale Your Model", part 3, a note on ICI latency.
HOP_SECONDS = 1e-6
# Latency between pods over the data-centre network (DCN), in seconds. This is an assumption, not a specification.
DCN_HOP_SECONDS = 50e-6


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The seconds that each resource of a chip needs for one step.

    The computation takes as long as the slowest resource. The communication comes after it and is not overlapped.

    Attributes:
      matrix: FLOPs of matrix products, divided by the bf16 peak.
      cycles: cycles from the compiler, divided by the clock; a lower bound if the cycles of the kernels are unknown.
      memory: HBM traffic, divided by the bandwidth.
      network: the time of the collectives.
      launches: the pauses between the kernels of a GPU, which come on top of the slowest resource; 0 for a TPU.
    """

    matrix: float
    cycles: float
    memory: float
    network: float
    launches: float = 0.0

    @property
    def computing(self) -> float:
        """Returns the seconds of a step without communication."""
        return max(self.matrix, self.cycles, self.memory) + self.launches

    @property
    def step(self) -> float:
        """Returns the seconds of a step."""
        return self.computing + self.network

    @property
    def limit(self) -> str:
        """Returns the name of the slowest resource: "matrix", "cycles", "memory" or "launches"."""
        return max(("matrix", "cycles", "memory", "launches"), key=lambda name: getattr(self, name))


def roofline(chip: Chip, *, flops: int, cycles: int, hbm_bytes: int, network: float) -> Roofline:
    """Computes the roofline of a program on a chip.

    Args:
      chip: the specification of the chip.
      flops: FLOPs of matrix products on one chip, as `matrix_flops` counts them.
      cycles: cycles on one chip, as the compiler estimates them.
      hbm_bytes: HBM traffic of one chip in bytes.
      network: the time of the communication in seconds.

    Returns:
      The seconds of each resource.
    """
    return Roofline(flops / chip.peak_flops, cycles / chip.clock, hbm_bytes / chip.hbm_bandwidth, network)


def all_reduce_seconds(payload: int, topology: Topology) -> float:
    """Estimates the time of an all-reduce over one slice: a reduce-scatter, then an all-gather, on all axes at once.

    An axis that is a ring uses its links in both directions, an axis without wrap-around in one direction. Each hop
    adds `HOP_SECONDS`.

    Args:
      payload: bytes on each chip.
      topology: the slice.

    Returns:
      Seconds; 0 for a single device.
    """
    chip = topology.chip
    bandwidth, hops = 0.0, chip.devices - 1
    for side in topology.sides:
        if side > 1:
            ring = side % chip.wraps == 0
            bandwidth += chip.ici_bandwidth * (2 if ring else 1)
            hops += side // 2 if ring else side - 1
    if not hops:
        return 0.0
    # The two devices of a chip reduce over their own link first, of which only the latency counts.
    return 2 * payload / bandwidth + 2 * hops * HOP_SECONDS


def all_reduce_over_pods(payload: int, topology: Topology, pods: int) -> float:
    """Estimates the time of an all-reduce over several pods.

    Each pod reduces by itself, so that each chip holds one part. A ring over the data-centre network then reduces each
    part between the pods.

    Args:
      payload: bytes on each chip.
      topology: the slice that makes up one pod.
      pods: the number of pods, at least 1.

    Returns:
      Seconds.
    """
    part = payload / topology.chips
    ring = 2 * part * (pods - 1) / pods / topology.chip.dcn_bandwidth + 2 * (pods - 1) * DCN_HOP_SECONDS
    return all_reduce_seconds(payload, topology) + ring


@dataclasses.dataclass(frozen=True)
class ScalingPrediction:
    """The prediction for a step on another number of chips, with the same batch on each chip.

    Attributes:
      name: the name of the slice, or of several pods.
      chips: the number of chips in all.
      network: the time of the all-reduce in seconds.
      efficiency: the share of the step's time that is not communication, from 0 to 1.
    """

    name: str
    chips: int
    network: float
    efficiency: float


def predict_scaling(computing: float, payload: int, kind: str) -> list[ScalingPrediction]:
    """Predicts the efficiency for 8, 256 and 4,096 chips with the same batch on each chip.

    If the largest slice has fewer than 4,096 chips, several pods of that size are assumed.

    Args:
      computing: seconds of a step without communication.
      payload: bytes that are reduced in each step, on each chip.
      kind: the kind of chip, such as "v5e".

    Returns:
      One prediction for each number of chips.
    """
    flat = Topology(f"{kind}:2x4") if kind in ("v5e", "v6e") else Topology(f"{kind}:2x2x2")
    middle = Topology(f"{kind}:16x16") if kind in ("v5e", "v6e") else Topology(f"{kind}:4x8x8")
    pod = Topology(f"{kind}:{flat.chip.pod}")
    pods = math.ceil(4096 / pod.chips)
    rows = [(one.name, one.chips, all_reduce_seconds(payload, one)) for one in (flat, middle)]
    name = f"{pods} pods {pod.name}" if pods > 1 else pod.name
    rows.append((name, pods * pod.chips, all_reduce_over_pods(payload, pod, pods)))
    return [ScalingPrediction(name, chips, network, computing / (computing + network)) for name, chips, network in rows]


def largest_batch(free_bytes: int, bytes_per_image: float) -> int:
    """Returns how many images fit into memory.

    Args:
      free_bytes: the memory for images, in bytes; the result is 0 if it is negative.
      bytes_per_image: the memory that each image needs.
    """
    return max(0, math.floor(free_bytes / bytes_per_image))
