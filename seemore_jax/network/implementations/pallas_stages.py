"""Blocks of the network as lists of stages, for TPU kernels.

A kernel applies a stage to one chunk of pixels after the other. Feature maps are (N, C, P): channels in sublanes, and
the P = H·W pixels of an image in lanes, row after row. A stage reads the same chunk of some maps, with neighbouring
pixels if it contains a convolution, and writes this chunk of other maps. Only the inputs and outputs of a block are in
HBM. The module `pallas_kernels` runs blocks, and `pallas_blocks` defines those of SeemoRe.
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
# Pixels of a chunk. Long chunks recompute fewer neighbouring pixels; short chunks keep more values in registers.
_CHUNK = 1024

BlockWeights = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class MapShape:
    """Shape of feature maps, and the precision of matrix products.

    Attributes:
      channels: number of channels C.
      height, width: size of the images in LR pixels.
      precision: precision of matrix products; None is one bfloat16 pass.
    """

    channels: int
    height: int
    width: int
    precision: jax.lax.Precision | None

    @classmethod
    def of(cls, height: int, width: int, config: SeemoReConfig) -> "MapShape":
        """Returns the shape of a network's feature maps.

        Args:
          height, width: size of the images in LR pixels.
          config: configuration of the network.
        """
        bfloat16 = config.compute_dtype == "bfloat16" or config.precision == "default"
        # Mosaic, the compiler of TPU kernels, supports two precisions: one pass in bfloat16, and float32.
        precision = None if bfloat16 else jax.lax.Precision.HIGHEST
        return cls(config.embedding_dim, height, width, precision)

    @property
    def pixels(self) -> int:
        """Number of pixels, H·W."""
        return self.height * self.width

    @property
    def rows(self) -> int:
        """Number of channels, rounded up to a multiple of 8 sublanes."""
        return round_up(self.channels, SUBLANES)

    @property
    def chunk(self) -> int:
        """Number of pixels in a chunk."""
        return min(_CHUNK, round_up(self.pixels, LANES))

    @property
    def lanes(self) -> int:
        """Number of pixels, rounded up to a multiple of the chunk."""
        return round_up(self.pixels, self.chunk)


class StageEnvironment(NamedTuple):
    """Arguments of a stage besides its weights and windows: shape, masks, and array operations.

    A window is a chunk with neighbouring pixels on each side.

    Attributes:
      shape: shape of the feature maps.
      masks: one row for each column offset from −reach to reach: 1 where the pixel at this offset is in the same row of
        the image, otherwise 0.
      reach: largest column offset of the stages.
      chunk: number of pixels in the chunk.
      arithmetic: array operations, for XLA or for Pallas kernels.
    """

    shape: MapShape
    masks: Float[Array, "offsets window"]
    reach: int
    chunk: int
    arithmetic: Arithmetic

    def mask(self, offset: int) -> Float[Array, "1 window"]:
        """Returns the mask of a column offset.

        Args:
          offset: column offset in pixels, from −reach to reach.
        """
        return self.masks[self.reach + offset : self.reach + offset + 1]

    def crop(self, window: Float[Array, "c window"]) -> Float[Array, "c chunk"]:
        """Returns the chunk in the middle of a window.

        Args:
          window: a chunk with neighbouring pixels.
        """
        return self.arithmetic.crop(window, self.chunk)

    def shifted(self, window: Float[Array, "c window"], lanes: int) -> Float[Array, "c window"]:
        """Returns a window, shifted so that pixel p + lanes is at position p.

        Args:
          window: a chunk with neighbouring pixels.
          lanes: offset in pixels. Pixels that wrap around the end of the window are not valid.
        """
        return self.arithmetic.shifted(window, lanes) if lanes else window

    def product(self, matrix: Float[Array, "m k"], x: Float[Array, "k p"]) -> Float[Array, "m p"]:
        """Returns matrix · x, at the precision of the feature maps.

        Args:
          matrix: matrix (m, k).
          x: array (k, p).
        """
        return self.arithmetic.product(self.shape.precision, matrix, x)

    def normalize(
        self, scale: Float[Array, "rows 1"], bias: Float[Array, "rows 1"], x: Float[Array, "rows p"]
    ) -> Float[Array, "rows p"]:
        """Returns the LayerNorm of x over the channels.

        Args:
          scale, bias: parameters of the LayerNorm as columns.
          x: array (rows, p).
        """
        return self.arithmetic.normalize(self.shape.channels, scale, bias, x)


class Stage(NamedTuple):
    """Step of a block that is applied to one chunk of pixels after the other.

    Attributes:
      function: (env, weights, *windows) → a tuple of chunks.
      weights: names of the weights that the function uses.
      reads: names of the maps that the function reads.
      writes: names of the maps that the function writes.
      halo: number of neighbouring pixels on each side of a chunk, for the maps in `around`.
      around: names of the maps in `reads` that the function reads with neighbouring pixels.
    """

    function: Callable[..., tuple[Array, ...]]
    weights: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    halo: int = 0
    around: tuple[str, ...] = ()

    def halo_of(self, name: str) -> int:
        """Returns the number of neighbouring pixels on each side that the stage reads of a map.

        Args:
          name: name of the map.
        """
        return self.halo if name in self.around else 0


@dataclasses.dataclass(frozen=True)
class Block:
    """Stages that one kernel computes.

    Attributes:
      name: name of the kernels.
      stages: stages in their order.
      inputs: names of the maps that the kernel reads from HBM. Stages read them without neighbouring pixels.
      outputs: names of the maps that the kernel writes to HBM. No stage reads them.
      reach: largest column offset of all stages.
      output_rows: number of rows of each output; None if it is that of the inputs.
    """

    name: str
    stages: tuple[Stage, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reach: int
    output_rows: int | None = None

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the maps that stay in VMEM."""
        written = [name for stage in self.stages for name in stage.writes]
        return tuple(name for name in written if name not in self.outputs)

    @property
    def halo(self) -> int:
        """Largest halo of all stages, in pixels."""
        return max(stage.halo for stage in self.stages)


def round_up(value: int, multiple: int) -> int:
    """Returns the smallest multiple that is not below a value.

    Args:
      value: value to round up.
      multiple: positive number; the result is divisible by it.
    """
    return math.ceil(value / multiple) * multiple


def column_masks(shape: MapShape, reach: int, halo: int) -> Float[Array, "offsets lanes"]:
    """Returns the masks of `StageEnvironment` for a whole image.

    Args:
      shape: shape of the feature maps.
      reach: largest column offset in pixels.
      halo: number of zeros on each side of the pixels.

    Returns:
      One row for each column offset from −reach to reach, padded to a multiple of 8 rows.
    """
    columns = np.arange(shape.pixels) % shape.width
    offsets = np.arange(-reach, reach + 1)[:, None]
    inside = (columns + offsets >= 0) & (columns + offsets < shape.width)
    rows = round_up(len(offsets), SUBLANES) - len(offsets)
    lanes = shape.lanes - shape.pixels
    return jnp.asarray(np.pad(inside.astype(np.float32), ((0, rows), (halo, halo + lanes))))
