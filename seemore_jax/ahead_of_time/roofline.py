"""Estimates of a step's time on a chip and of its communication, from the compiler's figures and the chip's."""

import dataclasses
import math

from seemore_jax.ahead_of_time.topologies import Chip, Topology

# From one chip to its neighbour: "How to Scale Your Model", part 3, a note on ICI latency.
HOP_SECONDS = 1e-6
# From one pod to the next over the data-centre network: assumed, from no specification.
DCN_HOP_SECONDS = 50e-6


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each resource alone would take for one step; the step takes the longest, then communicates.

    Attributes:
      matrix: FLOPs of products over the bf16 peak.
      cycles: the compiler's cycles over the clock; a lower bound if the kernels' are not known.
      memory: HBM traffic over the bandwidth.
      network: the collectives, overlapped with nothing.
    """

    matrix: float
    cycles: float
    memory: float
    network: float

    @property
    def computing(self) -> float:
        """Seconds without communication."""
        return max(self.matrix, self.cycles, self.memory)

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.computing + self.network

    @property
    def limit(self) -> str:
        """What takes longest."""
        return max(("matrix", "cycles", "memory"), key=lambda name: getattr(self, name))


def roofline(chip: Chip, *, flops: int, cycles: int, hbm_bytes: int, network: float) -> Roofline:
    """The roofline of a program on a chip; `network` is in seconds."""
    return Roofline(flops / chip.peak_flops, cycles / chip.clock, hbm_bytes / chip.hbm_bandwidth, network)


def all_reduce_seconds(payload: int, topology: Topology) -> float:
    """Of `payload` bytes on each chip, over a slice: reduced and gathered along its axes' links at once.

    A ring uses its links both ways, an axis without wrap-around one way; each hop adds `HOP_SECONDS`.
    """
    chip = topology.chip
    bandwidth, hops = 0.0, 0
    for side in topology.sides:
        if side > 1:
            ring = side % chip.wraps == 0
            bandwidth += chip.ici_bandwidth * (2 if ring else 1)
            hops += side // 2 if ring else side - 1
    if not hops:
        return 0.0
    return 2 * payload / bandwidth + 2 * hops * HOP_SECONDS


def all_reduce_over_pods(payload: int, topology: Topology, pods: int) -> float:
    """The same over several pods: in each a chip reduces its part, which then goes round the pods over their DCN."""
    part = payload / topology.chips
    ring = 2 * part * (pods - 1) / pods / topology.chip.dcn_bandwidth + 2 * (pods - 1) * DCN_HOP_SECONDS
    return all_reduce_seconds(payload, topology) + ring


@dataclasses.dataclass(frozen=True)
class ScalingPrediction:
    """A step with the same batch on each chip, on another number of chips.

    Attributes:
      name: of the slice, or of several pods.
      chips: in all.
      network: seconds of the all-reduce.
      efficiency: share of a step that is not communication.
    """

    name: str
    chips: int
    network: float
    efficiency: float


def predict_scaling(computing: float, payload: int, kind: str) -> list[ScalingPrediction]:
    """Efficiency as chips are added, to 4,096: 8, 256 and 4,096 of them in one slice where the chip has such."""
    flat = Topology(f"{kind}:2x4") if kind in ("v5e", "v6e") else Topology(f"{kind}:2x2x2")
    middle = Topology(f"{kind}:16x16") if kind in ("v5e", "v6e") else Topology(f"{kind}:4x8x8")
    pod = Topology(f"{kind}:{flat.chip.pod}")
    pods = math.ceil(4096 / pod.chips)
    rows = [(one.name, one.chips, all_reduce_seconds(payload, one)) for one in (flat, middle)]
    name = f"{pods} pods {pod.name}" if pods > 1 else pod.name
    rows.append((name, pods * pod.chips, all_reduce_over_pods(payload, pod, pods)))
    return [ScalingPrediction(name, chips, network, computing / (computing + network)) for name, chips, network in rows]


def largest_batch(free_bytes: int, bytes_per_image: float) -> int:
    """How many images fit into `free_bytes`."""
    return max(0, math.floor(free_bytes / bytes_per_image))
