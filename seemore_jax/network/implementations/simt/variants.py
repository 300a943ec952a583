"""Variants of the kernels for GPUs: what is compiled, how a block is launched, and how matrices are arranged."""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array

from seemore_jax.network.config import SeemoReConfig

THREADS = 256  # kThreads of simt.h
# The most shared memory that a block can have on each of the supported architectures: 99 kB, on sm_86 and sm_89.
MOST_SHARED_BYTES = 99 * 1024
_MOST_CHANNELS = 512  # a thread has one pair of channels
# Height and width of the tile of pixels that a block computes; the first whose arrays fit is taken.
_TILES = ((8, 16), (8, 8), (4, 8))
_TALL_TILES = ((16, 16), *_TILES)
_ROWS = ((1, 128), (1, 64), (1, 32), (1, 16))
_LINES = (4, 1)
_MOST_TILES = 8  # kMostTiles of products.h
_PIXELS_OF_THREAD = 4  # kOfThread of routing.h


@dataclasses.dataclass(frozen=True)
class Variant:
    """A kernel for one number of channels and one type.

    Attributes:
      name: name of the kernel: "embedding", "routing", "experts", "feed_forward" or "enhancement".
      channels: number of channels of the feature maps, at least 1.
      compute_dtype: type of the feature maps and of the matrices, "float32" or "bfloat16".
      length: rank of an expert; length of the filters of the enhancement; for "routing", 1 if it reduces the context
        once more. 0 for the other kernels.
      num_experts: number of experts, for "routing" and "experts".
      topk: number of chosen experts of an image, for "experts".
    """

    name: str
    channels: int
    compute_dtype: str
    length: int = 0
    num_experts: int = 0
    topk: int = 0

    @property
    def tile(self) -> tuple[int, int, int] | None:
        """Height and width of the tile of pixels of a block, and its lines; None if no tile fits into shared memory.

        The lines are the number of lines of which the enhancement has the query at once.
        """
        if self.channels > _MOST_CHANNELS:
            return None
        if self.name == "routing":
            return 1, _PIXELS_OF_THREAD * _threads_of_a_pair(self.channels), 1
        tiles = {"experts": _ROWS, "enhancement": _TALL_TILES}.get(self.name, _TILES)
        candidates = ((*tile, lines) for lines in _LINES for tile in tiles)
        return next((tile for tile in candidates if self._bytes(*tile) <= MOST_SHARED_BYTES), None)

    @property
    def shared_bytes(self) -> int:
        """Size of the shared memory of a block. The source of the kernel asserts that it is the same.

        Raises:
          ValueError: no tile fits into shared memory.
        """
        if self.tile is None:
            raise ValueError(f"{self} does not fit into shared memory")
        return self._bytes(*self.tile)

    def _bytes(self, height: int, width: int, lines: int) -> int:
        size = 2 if self.compute_dtype == "bfloat16" else 4
        row = _row_bytes(self.channels, size)
        pixels = height * width
        if self.name == "embedding":
            return (_round_up((height + 4) * (width + 4), 16) + _round_up((height + 2) * (width + 2), 16)) * row
        if self.name == "routing":
            padded = _round_up(self.channels, 16)
            router = (_threads_of_a_pair(self.channels) + 1) * padded + self.num_experts
            return 4 * max(pixels * padded, router)
        if self.name == "experts":
            return pixels * (2 * row + _row_bytes(self.topk * _round_up(self.length, 16), size))
        if self.name == "feed_forward":
            in_place = self.channels <= 8 * _MOST_TILES
            return (2 * _round_up((height + 2) * (width + 2), 16) + (0 if in_place else pixels)) * row
        reach = self.length // 2
        work = max(_round_up(lines * (width + 2 * reach), 16), min(pixels, THREADS // 2))
        return ((height + 2 * reach) * width + 2 * work) * row

    def definitions(self) -> dict[str, str | int]:
        """Returns the macros that choose what the source is compiled to.

        Raises:
          ValueError: no tile fits into shared memory.
        """
        shared_bytes = self.shared_bytes
        assert self.tile is not None
        height, width, lines = self.tile
        return {
            "SEEMORE_KERNEL": self.name,
            "SEEMORE_CHANNELS": self.channels,
            "SEEMORE_BFLOAT16": int(self.compute_dtype == "bfloat16"),
            "SEEMORE_LENGTH": self.length,
            "SEEMORE_EXPERTS": self.num_experts,
            "SEEMORE_TOPK": self.topk,
            "SEEMORE_TILE_HEIGHT": height,
            "SEEMORE_TILE_WIDTH": width,
            "SEEMORE_LINES": lines,
            "SEEMORE_SHARED_BYTES": shared_bytes,
        }

    def grid(self, images: int, height: int, width: int) -> tuple[int, int, int]:
        """Returns the numbers of blocks along x, y and z.

        Args:
          images: number of images.
          height, width: size of their arrays in pixels; for "routing", of the summary.
        """
        assert self.tile is not None
        if self.name == "routing":  # the first block computes the router
            return 1 - (-height * width // self.tile[1]), 1, images
        if self.name == "experts":
            return -(-height * width // self.tile[1]), 1, images
        return -(-width // self.tile[1]), -(-height // self.tile[0]), images


def variants_of(config: SeemoReConfig) -> Iterator[Variant]:
    """Yields the kernels of a network.

    Args:
      config: configuration of the network.
    """
    channels, compute_dtype, num_experts = config.embedding_dim, config.compute_dtype, config.num_experts
    yield Variant("embedding", channels, compute_dtype)
    yield Variant("routing", channels, compute_dtype, int(config.recursive > 1), num_experts)
    yield Variant("experts", channels, compute_dtype, max(config.ranks), num_experts, config.topk)
    yield Variant("feed_forward", channels, compute_dtype)
    yield Variant("enhancement", channels, compute_dtype, config.global_kernel_size)


def packed(matrix: Array, compute_dtype: str) -> Array:
    """Arranges matrices as the kernels read them: in fragments of 16 × 8 values, in the order of the lanes.

    Args:
      matrix: matrices (…, rows, columns).
      compute_dtype: type of the result, "float32" or "bfloat16".

    Returns:
      An array (…, steps, tiles, 128): rows are padded with zeros to a multiple of 16, columns to a multiple of 8.
    """
    *others, rows, columns = matrix.shape
    steps, tiles = _round_up(rows, 16) // 16, _round_up(columns, 8) // 8
    padding = [(0, 0)] * len(others) + [(0, 16 * steps - rows), (0, 8 * tiles - columns)]
    # Rows and columns of a fragment, split into those of a lane and those of its values.
    half = compute_dtype == "bfloat16"
    row_axes, column_axes = ((2, 4, 2), (8,)) if half else ((8, 2), (4, 2))
    split = jnp.pad(matrix, padding).astype(compute_dtype).reshape(*others, steps, *row_axes, tiles, *column_axes)
    # From (step, i, t, e, tile, g) to (step, tile, g, t, i, e), or from (step, j, e, tile, t, f) to (…, j, t, e, f).
    order = (0, 4, 5, 2, 1, 3) if half else (0, 3, 1, 4, 2, 5)
    axes = [*range(len(others)), *(len(others) + axis for axis in order)]
    return split.transpose(axes).reshape(*others, steps, tiles, 128)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _threads_of_a_pair(channels: int) -> int:
    """Returns how many threads have the same pair of channels: kGroups of memory.h."""
    return THREADS // (_round_up(channels, 16) // 2)


def _row_bytes(columns: int, size: int) -> int:
    """Returns the size of a row of shared memory in bytes, with the skew that shifts successive rows to other banks."""
    return (_round_up(columns, 16) + (8 if size == 2 else 4)) * size
