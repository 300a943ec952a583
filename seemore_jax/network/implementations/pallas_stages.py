"""Blocks of the network as lists of stages, which the TPU's kernels apply to one chunk of pixels after the other.

Feature maps are (N, C, P): channels in sublanes, the P = H·W pixels of an image in lanes, row after row. A stage reads
chunks of some maps, with their neighbourhood if a convolution follows, and writes the same chunk of other maps. Only
the block's inputs and outputs are in HBM. `pallas_kernels` runs blocks; `pallas_blocks` has those of SeemoRe.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations.pallas_arithmetic import Arithmetic

LANES = 128
SUBLANES = 8
# Longer chunks recompute less of their neighbourhood; shorter ones keep more values in registers.
_CHUNK = 1024
# A v5e or v6e has 128 MiB; the compiler needs the rest.
VMEM_BYTES = 100 * 2**20

BlockWeights = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class MapShape:
    """Shape of the feature maps: `channels` of `height`×`width` pixels; and the precision of products."""

    channels: int
    height: int
    width: int
    precision: jax.lax.Precision | None

    @classmethod
    def of(cls, height: int, width: int, config: SeemoReConfig) -> "MapShape":
        """Returns the shape of a network's feature maps for images of this size, in LR pixels."""
        bfloat16 = config.compute_dtype == "bfloat16" or config.precision == "default"
        # Mosaic, the compiler of TPU kernels, knows two precisions: one pass in bfloat16, and float32.
        precision = None if bfloat16 else jax.lax.Precision.HIGHEST
        return cls(config.embedding_dim, height, width, precision)

    @property
    def pixels(self) -> int:
        """Number of pixels, H·W."""
        return self.height * self.width

    @property
    def rows(self) -> int:
        """Number of channels, padded to whole sublanes."""
        return round_up(self.channels, SUBLANES)

    @property
    def chunk(self) -> int:
        """Number of pixels in a chunk."""
        return min(_CHUNK, round_up(self.pixels, LANES))

    @property
    def lanes(self) -> int:
        """Number of pixels, padded to whole chunks."""
        return round_up(self.pixels, self.chunk)


class StageEnvironment(NamedTuple):
    """What a stage needs to know besides its weights and windows.

    Attributes:
      shape: shape of the feature maps.
      masks: for each column offset from −reach to reach, 1 where the pixel at that offset lies in the same image row.
      reach: the largest column offset.
      chunk: number of pixels in the chunk.
      arithmetic: the operations, for XLA or for kernels.
    """

    shape: MapShape
    masks: Float[Array, "offsets window"]
    reach: int
    chunk: int
    arithmetic: Arithmetic

    def mask(self, offset: int) -> Float[Array, "1 window"]:
        """Returns the mask of a column offset."""
        return self.masks[self.reach + offset : self.reach + offset + 1]

    def crop(self, window: Float[Array, "c window"]) -> Float[Array, "c chunk"]:
        """Returns the chunk in the middle of a window."""
        return self.arithmetic.crop(window, self.chunk)

    def shifted(self, window: Float[Array, "c window"], lanes: int) -> Float[Array, "c window"]:
        """Shifts a window so that pixel p + lanes is at p. Lanes that wrap around the end are not valid."""
        return self.arithmetic.shifted(window, lanes) if lanes else window

    def product(self, matrix: Float[Array, "m k"], x: Float[Array, "k p"]) -> Float[Array, "m p"]:
        """Multiplies by a matrix from the left, at the precision of the maps."""
        return self.arithmetic.product(self.shape.precision, matrix, x)

    def normalize(
        self, scale: Float[Array, "rows 1"], bias: Float[Array, "rows 1"], x: Float[Array, "rows p"]
    ) -> Float[Array, "rows p"]:
        """Applies LayerNorm over the channels."""
        return self.arithmetic.normalize(self.shape.channels, scale, bias, x)


class Stage(NamedTuple):
    """A step of a block, applied to one chunk of pixels after the other.

    Attributes:
      function: (env, weights, *windows) → a tuple of chunks.
      weights: names of the weights that the function uses.
      reads: names of the maps that the function reads.
      writes: names of the maps that the function writes.
      halo: number of pixels on each side of a chunk in the windows of the maps in `around`.
      around: those maps in `reads` that are read with their neighbourhood.
    """

    function: Callable[..., tuple[Array, ...]]
    weights: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    halo: int = 0
    around: tuple[str, ...] = ()

    def halo_of(self, name: str) -> int:
        """Returns the number of pixels on each side with which this map is read."""
        return self.halo if name in self.around else 0


@dataclasses.dataclass(frozen=True)
class Block:
    """A list of stages that one kernel computes, and which of their maps are in HBM.

    Attributes:
      name: name of the kernels.
      stages: the stages in order.
      inputs: maps that the kernel reads from HBM; stages read them without neighbourhood.
      outputs: maps that the kernel writes to HBM; no stage reads them.
      reach: the largest column offset in any stage.
    """

    name: str
    stages: tuple[Stage, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reach: int

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the maps that stay in VMEM."""
        written = [name for stage in self.stages for name in stage.writes]
        return tuple(name for name in written if name not in self.outputs)

    @property
    def halo(self) -> int:
        """The largest halo of any stage."""
        return max(stage.halo for stage in self.stages)

    def fits(self, shape: MapShape) -> bool:
        """Returns whether the backward kernel's maps fit into VMEM; the forward kernel needs fewer."""
        row = shape.rows * (shape.lanes + 2 * self.halo) * 4
        buffers = 2 * len(self.buffers) + len(self.inputs)
        streamed = 2 * (2 * len(self.inputs) + len(self.outputs))  # double-buffered, at most float32
        masks = round_up(2 * self.reach + 1, SUBLANES) * (shape.lanes + 2 * self.halo) * 4
        return (buffers + streamed) * row + 2 * masks < VMEM_BYTES


def round_up(value: int, multiple: int) -> int:
    """Rounds up to the next multiple."""
    return math.ceil(value / multiple) * multiple


def column_masks(shape: MapShape, reach: int, halo: int) -> Float[Array, "offsets lanes"]:
    """For each column offset from −reach to reach, 1 where a pixel at that offset is in the same row of the shape.

    Padded to whole sublanes, and with `halo` zeros on each side.
    """
    columns = np.arange(shape.pixels) % shape.width
    offsets = np.arange(-reach, reach + 1)[:, None]
    inside = (columns + offsets >= 0) & (columns + offsets < shape.width)
    rows = round_up(len(offsets), SUBLANES) - len(offsets)
    lanes = shape.lanes - shape.pixels
    return jnp.asarray(np.pad(inside.astype(np.float32), ((0, rows), (halo, halo + lanes))))
