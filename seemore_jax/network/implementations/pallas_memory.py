"""VMEM of TPUs: how much a core has, and how much a kernel of a block needs.

The compiler reports what a kernel needs only by refusing one that asks for too little. So the need is estimated from
above: the maps that the kernel keeps, two buffers for each array that it streams, one for each that all images share,
and what the compiler adds for values that do not fit into registers. `make test-tpu-compile` compiles kernels with it.
"""

from collections.abc import Iterable
from typing import Any

from seemore_jax.network.implementations.pallas_stages import LANES, SUBLANES, Block, MapShape, round_up
from seemore_jax.system.devices import target_device_kind

_MIB = 2**20
# VMEM of one core in MiB. Source: the table of chips in JAX 0.10.2 (jax/_src/pallas/mosaic/tpu_info.py).
_VMEM_MIB = {
    "TPU v2": 16,
    "TPU v3": 16,
    "TPU v4": 16,
    "TPU v5 lite": 128,
    "TPU v5e": 128,
    "TPU v5": 64,
    "TPU v5p": 64,
    "TPU v6 lite": 128,
    "TPU v6e": 128,
    "TPU7x": 64,
}
_LEAST_MIB, _MOST_MIB = 16, 128
# How many maps of one window the compiler spills from registers at most, (forward, backward): the most that libtpu
# 0.0.42.1 reported for any block of T and B with images of 64×64 was (4.9, 8.8) and (9.3, 19.6).
_SPILLED_IN_BFLOAT16 = (6, 10)
_SPILLED_IN_FLOAT32 = (11, 22)


def vmem_bytes() -> int:
    """Returns the VMEM in bytes of the device for which programs are traced now.

    For a TPU that is not known, it is that of the smallest one; where kernels are interpreted, that of the largest one.
    """
    kind = target_device_kind()
    return _VMEM_MIB.get(kind, _LEAST_MIB if kind.startswith("TPU") else _MOST_MIB) * _MIB


def kernel_bytes(block: Block, shape: MapShape, arrays: Iterable[Any], *, buffers: int, backward: bool) -> int:
    """Returns an upper estimate of the VMEM in bytes that a kernel needs.

    Args:
      block: the block that the kernel computes.
      shape: shape of the feature maps.
      arrays: arguments and results of the kernel. Those with three axes, (N, …), are streamed, an image at a time.
      buffers: number of maps that the kernel keeps in VMEM, in float32.
      backward: whether it is the backward kernel.
    """
    kept = buffers * shape.rows * (shape.lanes + 2 * block.halo) * 4
    streamed = sum(_block_bytes(array) * (2 if len(array.shape) == 3 else 1) for array in arrays)
    window = shape.rows * (shape.chunk + 2 * block.halo) * 4
    spilled = (_SPILLED_IN_BFLOAT16 if shape.precision is None else _SPILLED_IN_FLOAT32)[backward]
    return kept + streamed + spilled * window


def _block_bytes(array: Any) -> int:
    """Returns the size in VMEM of the part of an array that a kernel has at a time, padded to whole tiles."""
    *_, rows, columns = array.shape
    return array.dtype.itemsize * round_up(rows, SUBLANES) * round_up(columns, LANES)
