"""Valid region of padded arrays, by which one compiled program serves images of many sizes, and strips of an image.

No valid pixel depends on the values outside of the valid region: they are set to zero before every convolution that
pads with zeros, and means leave them out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class ValidRegion(NamedTuple):
    """Valid region of padded feature maps (N, H, W, C): their first rows and columns, in pixels.

    The valid region contains a whole image, or a strip of an image and rows of the neighbouring strips.

    Attributes:
      height, width: size of the valid region.
      first_row: index, in the full image, of the array's first row.
      image_height: height of the full image.
      begin, end: rows of the array that belong to this strip, from `begin` to `end` − 1. The other valid rows belong to
        neighbouring strips, and means over the image leave them out.
    """

    height: Int[Array, ""]
    width: Int[Array, ""]
    first_row: Int[Array, ""]
    image_height: Int[Array, ""]
    begin: Int[Array, ""]
    end: Int[Array, ""]

    @classmethod
    def of(cls, height: int | Int[Array, ""], width: int | Int[Array, ""]) -> "ValidRegion":
        """Returns the valid region of arrays that contain a whole image.

        Args:
          height, width: size of the image.
        """
        return cls.part(height, width, 0, height, 0, height)

    @classmethod
    def part(cls, *values: int | Int[Array, ""]) -> "ValidRegion":
        """Returns a valid region from the values of its fields.

        Args:
          *values: the fields in their order, as numbers or int32 arrays of rank 0.
        """
        return cls(*(jnp.asarray(value, jnp.int32) for value in values))

    def reduced(self, times: int) -> "ValidRegion":
        """Returns the valid region of the full image after reductions by 4.

        Args:
          times: number of reductions.
        """
        return ValidRegion.of(self.image_height // 4**times, self.width // 4**times)


def mask_outside(x: Float[Array, "n h w c"], region: ValidRegion) -> Float[Array, "n h w c"]:
    """Sets everything outside of the valid region to zero.

    Args:
      x: feature maps.
      region: their valid region.

    Returns:
      Feature maps of the same shape and type.
    """
    return jnp.where(_is_below(x, 1, region.height) & _is_below(x, 2, region.width), x, 0)


def sum_inside(x: Float[Array, "n h w c"], region: ValidRegion) -> Float[Array, "n c"]:
    """Computes sums over the rows `begin` to `end` − 1 and the valid columns.

    Args:
      x: feature maps.
      region: their valid region.

    Returns:
      One sum for each image and channel, float32.
    """
    return jnp.sum(mask_uncounted(x, region), axis=(1, 2), dtype=jnp.float32)


def mask_uncounted(x: Float[Array, "n h w c"], region: ValidRegion) -> Float[Array, "n h w c"]:
    """Sets to zero what sums over the image leave out: all but the rows `begin` to `end` − 1 of the valid columns.

    Args:
      x: feature maps.
      region: their valid region.
    """
    counts = _is_below(x, 1, region.end) & ~_is_below(x, 1, region.begin) & _is_below(x, 2, region.width)
    return jnp.where(counts, x, 0)


def repeat_edge(x: Float[Array, "n h w c"], region: ValidRegion) -> Float[Array, "n h w c"]:
    """Fills everything outside of the valid region by repetition of its last row and column.

    Args:
      x: feature maps.
      region: their valid region.

    Returns:
      Feature maps of the same shape and type.
    """
    for axis, size in ((1, region.height), (2, region.width)):
        x = jnp.take(x, jnp.minimum(jnp.arange(x.shape[axis]), size - 1), axis=axis)
    return x


def resize_axis(
    x: Float[Array, "n h w c"], axis: int, length: int, source: Int[Array, ""], target: Int[Array, ""], first: Array
) -> Array:
    """Resizes linearly along one axis, with half-pixel centres and repeated edges.

    Args:
      x: feature maps; the first `source` values along the axis are valid.
      axis: axis to resize, 1 (rows) or 2 (columns).
      length: number of values to compute.
      source, target: numbers of values before and after the resize, source ≤ target ≤ 2³⁰.
      first: index, among the `target` values, of the first value to compute, below `target`.

    Returns:
      The values `first` to `first` + `length` − 1 along the axis. Those from index `target` on are arbitrary.
    """
    above, weight = resize_positions(length, *(jnp.asarray(value, jnp.int32) for value in (source, target, first)))
    below = jnp.minimum(above + 1, source - 1)
    weight = jnp.expand_dims(weight.astype(x.dtype), [i for i in range(x.ndim) if i != axis])
    return (1 - weight) * jnp.take(x, above, axis=axis) + weight * jnp.take(x, below, axis=axis)


def resize_positions(
    length: int, source: Int[Array, ""], target: Int[Array, ""], first: Int[Array, ""]
) -> tuple[Int[Array, " length"], Float[Array, " length"]]:
    """Returns where the results of a linear resize along one axis lie among its source values.

    The position of a result among the source values is (index + 0.5) · source / target − 0.5. Its integer part is
    computed in int32, because float32 rounds large numbers. The product index · source has up to 60 bits and overflows
    int32; therefore it is split.

    Args:
      length, source, target, first: as for `resize_axis`.

    Returns:
      For each result, the index of the source value above it, and the weight of the source value below it.
    """
    index = first + jnp.arange(length, dtype=jnp.int32)
    # source / target = (ratio + remainder / target) / 2¹⁵ with |remainder| < 2 · target. Products that overflow keep
    # their last 32 bits. The difference of two such products is exact, because the true difference fits in 32 bits.
    ratio = jnp.floor(_divide(source, target) * 2**15).astype(jnp.int32)
    remainder = source * 2**15 - ratio * target
    # With index = high · 2¹⁵ + low, no product overflows, and the numbers in float32 are below 2¹⁷.
    high, low = index >> 15, index & (2**15 - 1)
    rounded = _divide(low * ratio, jnp.int32(2**15)) + _divide(index, jnp.int32(2**15)) * _divide(remainder, target)
    whole = high * ratio + jnp.floor(rounded).astype(jnp.int32)  # integer part of index · source / target, ±1
    fraction = _divide(index * source - whole * target, target) + 0.5 * _divide(source, target) - 0.5
    above = whole + jnp.floor(fraction).astype(jnp.int32)
    weight = jnp.where(above < 0, 0, fraction - jnp.floor(fraction))
    return jnp.clip(above, 0, source - 1), weight


def _divide(dividend: Array, divisor: Array) -> Float[Array, "..."]:
    """Divides integers in float32, also with `jax_enable_x64`."""
    return dividend.astype(jnp.float32) / divisor.astype(jnp.float32)


def _is_below(x: Array, axis: int, bound: Array) -> Array:
    """Returns whether each index along an axis is below a bound, as an array that broadcasts against x."""
    return jax.lax.broadcasted_iota(jnp.int32, (1, *x.shape[1:3], 1), axis) < bound
