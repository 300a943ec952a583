"""Estimates the communication of a step on GPUs, from the bandwidths and latencies of their links."""

import math

from seemore_jax.ahead_of_time.gpus import GpuTopology
from seemore_jax.ahead_of_time.roofline import ScalingPrediction

# Latencies of one hop of NCCL in seconds: within a host, and between hosts. Both are assumptions.
LINK_SECONDS = 2e-6
HOST_SECONDS = 10e-6
_GPUS_PER_HOST = 8


def all_reduce_seconds(payload: int, topology: GpuTopology) -> float:
    """Estimates the time of an all-reduce: a ring in each host, and a tree over the hosts for each GPU's part.

    Args:
      payload: bytes on each GPU.
      topology: the GPUs.

    Returns:
      Seconds; 0 for a single GPU.
    """
    gpus, hosts = topology.gpus_per_host, topology.hosts
    inside = 2 * payload * (gpus - 1) / gpus / topology.chip.link_bandwidth + 2 * (gpus - 1) * LINK_SECONDS
    hops = math.ceil(math.log2(hosts))
    between = 2 * payload / gpus * (hosts - 1) / hosts / topology.chip.host_bandwidth + 2 * hops * HOST_SECONDS
    return inside + between


def predict_scaling(computing: float, payload: int, kind: str) -> list[ScalingPrediction]:
    """Predicts the efficiency for 8, 256 and 4,096 GPUs in hosts of eight, with the same batch on each GPU.

    Args:
      computing: seconds of a step without communication.
      payload: bytes that are reduced in each step, on each GPU.
      kind: the kind of GPU, such as "h100".

    Returns:
      One prediction for each number of GPUs.
    """
    rows = []
    for hosts in (1, 32, 512):
        one = GpuTopology(f"{kind}:{_GPUS_PER_HOST}" + (f"x{hosts}" if hosts > 1 else ""))
        network = all_reduce_seconds(payload, one)
        rows.append(ScalingPrediction(one.name, one.chips, network, computing / (computing + network)))
    return rows
