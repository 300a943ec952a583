"""The valid region of padded arrays: one compiled program then serves images of many sizes, and strips of an image.

Values outside of the valid region do not matter: they are set to zero before every convolution, means leave them out,
and no valid pixel depends on them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class ValidRegion(NamedTuple):
    """The part of feature maps (N, H, W, C) that an image, or a strip of it, fills: the first rows and columns.

    Attributes:
      height, width: size of the valid region, in pixels.
      first_row: index, in the whole image, of the array's first row.
      image_height: height of the whole image.
      begin, end: the rows of the array that belong to this strip. The valid rows around them belong to neighbouring
        strips, and do not count in means over the image.
    """

    height: Int[Array, ""]
    width: Int[Array, ""]
    first_row: Int[Array, ""]
    image_height: Int[Array, ""]
    begin: Int[Array, ""]
    end: Int[Array, ""]

    @classmethod
    def of(cls, height: int | Int[Array, ""], width: int | Int[Array, ""]) -> "ValidRegion":
        """Returns the region of a whole image of that size."""
        return cls.part(height, width, 0, height, 0, height)

    @classmethod
    def part(cls, *values: int | Int[Array, ""]) -> "ValidRegion":
        """Returns a region with these values of the fields, numbers or arrays."""
        return cls(*(jnp.asarray(value, jnp.int32) for value in values))

    def reduced(self, times: int) -> "ValidRegion":
        """Returns the region of the whole image after that many reductions by 4."""
        return ValidRegion.of(self.image_height // 4**times, self.width // 4**times)


def mask_outside(x: Float[Array, "n h w c"], region: ValidRegion) -> Float[Array, "n h w c"]:
    """Sets everything outside of the valid region to zero."""
    return jnp.where(_until(x, 1, region.height) & _until(x, 2, region.width), x, 0)


def sum_inside(x: Float[Array, "n h w c"], region: ValidRegion) -> Float[Array, "n c"]:
    """Sums over the valid region, in float32; rows that belong to neighbouring strips are left out."""
    counts = _until(x, 1, region.end) & ~_until(x, 1, region.begin) & _until(x, 2, region.width)
    return jnp.sum(jnp.where(counts, x, 0), axis=(1, 2), dtype=jnp.float32)


def repeat_edge(x: Float[Array, "n h w c"], region: ValidRegion) -> Float[Array, "n h w c"]:
    """Fills everything outside of the valid region with the image's last row and column."""
    for axis, size in ((1, region.height), (2, region.width)):
        x = jnp.take(x, jnp.minimum(jnp.arange(x.shape[axis]), size - 1), axis=axis)
    return x


def resize_axis(
    x: Float[Array, "n h w c"], axis: int, length: int, source: Int[Array, ""], target: Int[Array, ""], first: Array
) -> Array:
    """Resizes along one axis from `source` to `target` values: bilinear, half-pixel centres, edges repeated.

    Args:
      x: feature maps, of which the first `source` values along the axis are valid.
      axis: 1 (rows) or 2 (columns).
      length: number of values to compute.
      source, target: numbers of values before and after, source ≤ target ≤ 2³⁰.
      first: index, among the `target` values, of the first one to compute; below `target`.

    Returns:
      The values `first` to `first + length - 1` along the axis; those beyond `target` are arbitrary.
    """
    above, share = _positions(length, *(jnp.asarray(value, jnp.int32) for value in (source, target, first)))
    below = jnp.minimum(above + 1, source - 1)
    share = jnp.expand_dims(share.astype(x.dtype), [i for i in range(x.ndim) if i != axis])
    return (1 - share) * jnp.take(x, above, axis=axis) + share * jnp.take(x, below, axis=axis)


def _positions(
    length: int, source: Int[Array, ""], target: Int[Array, ""], first: Int[Array, ""]
) -> tuple[Int[Array, " length"], Float[Array, " length"]]:
    """Returns, for each result, the index of the upper of the two values around it, and the weight of the lower one.

    position = (index + 0.5) · source / target − 0.5. Its whole part is computed in integers, as float32 would round
    large ones; int32 must do, though index · source has up to 60 bits.
    """
    index = first + jnp.arange(length, dtype=jnp.int32)
    # source / target = (ratio + left / target) / 2¹⁵ with |left| < 2 · target. Products that overflow keep their last
    # 32 bits, and so does their difference, which is small enough to be all in them.
    ratio = jnp.floor(_divide(source, target) * 2**15).astype(jnp.int32)
    left = source * 2**15 - ratio * target
    # With index = high · 2¹⁵ + low, no product overflows, and float32 only has to hold numbers below 2¹⁷.
    high, low = index >> 15, index & (2**15 - 1)
    rounded = _divide(low * ratio, jnp.int32(2**15)) + _divide(index, jnp.int32(2**15)) * _divide(left, target)
    whole = high * ratio + jnp.floor(rounded).astype(jnp.int32)  # of index · source / target, one off at most
    rest = index * source - whole * target
    fraction = _divide(rest, target) + 0.5 * _divide(source, target) - 0.5
    above = whole + jnp.floor(fraction).astype(jnp.int32)
    share = jnp.where(above < 0, 0, fraction - jnp.floor(fraction))
    return jnp.clip(above, 0, source - 1), share


def _divide(dividend: Array, divisor: Array) -> Float[Array, "..."]:
    """Divides in float32, even where JAX would use float64 for integers."""
    return dividend.astype(jnp.float32) / divisor.astype(jnp.float32)


def _until(x: Array, axis: int, bound: Array) -> Array:
    """Returns whether each index along an axis is below a bound, in a shape that broadcasts against x."""
    return jax.lax.broadcasted_iota(jnp.int32, (1, *x.shape[1:3], 1), axis) < bound
