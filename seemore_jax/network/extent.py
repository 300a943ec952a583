"""Which part of an array is image: so that one compiled program serves images of many sizes, and parts of an image.

What stands in an array beyond its image does not matter: it is cleared before every convolution, left out of means,
and never reaches what is image. Where all of an array is one image, there is no extent (None), and nothing to do.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Extent(NamedTuple):
    """The image in an array of feature maps (N, H, W, C): its first rows and columns, and which they are.

    Attributes:
      height, width: of what is image in the array, in pixels.
      first_row: that row of the whole image is the array's row 0.
      image_height: of the whole image.
      begin, end: rows of the array that count in means over the image; the others belong to neighbouring parts too.
    """

    height: Int[Array, ""]
    width: Int[Array, ""]
    first_row: Int[Array, ""]
    image_height: Int[Array, ""]
    begin: Int[Array, ""]
    end: Int[Array, ""]

    @classmethod
    def of(cls, height: int | Int[Array, ""], width: int | Int[Array, ""]) -> "Extent":
        """Of a whole image."""
        return cls.part(height, width, 0, height, 0, height)

    @classmethod
    def part(cls, *values: int | Int[Array, ""]) -> "Extent":
        """Of the fields, numbers or arrays."""
        return cls(*(jnp.asarray(value, jnp.int32) for value in values))

    def reduced(self, times: int) -> "Extent":
        """Of the whole image, after so many reductions by 4."""
        return Extent.of(self.image_height // 4**times, self.width // 4**times)


def inside(x: Float[Array, "n h w c"], extent: Extent | None) -> Float[Array, "n h w c"]:
    """Zeros beyond the image."""
    if extent is None:
        return x
    return jnp.where(_until(x, 1, extent.height) & _until(x, 2, extent.width), x, 0)


def total(x: Float[Array, "n h w c"], extent: Extent | None) -> Float[Array, "n c"]:
    """The sum over the pixels that count, in float32."""
    if extent is not None:
        counts = _until(x, 1, extent.end) & ~_until(x, 1, extent.begin) & _until(x, 2, extent.width)
        x = jnp.where(counts, x, 0)
    return jnp.sum(x, axis=(1, 2), dtype=jnp.float32)


def repeat_edge(x: Float[Array, "n h w c"], extent: Extent) -> Float[Array, "n h w c"]:
    """The image's last row and column, repeated over all that is beyond."""
    for axis, size in ((1, extent.height), (2, extent.width)):
        x = jnp.take(x, jnp.minimum(jnp.arange(x.shape[axis]), size - 1), axis=axis)
    return x


def resize_axis(
    x: Float[Array, "n h w c"], axis: int, length: int, source: Int[Array, ""], target: Int[Array, ""], first: Array
) -> Array:
    """Bilinear resize along one axis, half-pixel centres, edges repeated: of `source` values to `target`.

    Args:
      x: whose first `source` values along the axis count.
      axis: 1 or 2.
      length: of the result.
      source, target: source ≤ target ≤ 2³⁰.
      first: below `target`.

    Returns:
      `length` of the target's values along the axis, from number `first` on.
    """
    above, share = _positions(length, *(jnp.asarray(value, jnp.int32) for value in (source, target, first)))
    below = jnp.minimum(above + 1, source - 1)
    share = jnp.expand_dims(share.astype(x.dtype), [i for i in range(x.ndim) if i != axis])
    return (1 - share) * jnp.take(x, above, axis=axis) + share * jnp.take(x, below, axis=axis)


def _positions(
    length: int, source: Int[Array, ""], target: Int[Array, ""], first: Int[Array, ""]
) -> tuple[Int[Array, " length"], Float[Array, " length"]]:
    """Between which two of the `source` values each result lies: the number of the upper one, the share of the lower.

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
    """In float32, also where JAX would take float64 for integers."""
    return dividend.astype(jnp.float32) / divisor.astype(jnp.float32)


def _until(x: Array, axis: int, bound: Array) -> Array:
    """Which indices along an axis are below a bound, to broadcast against x."""
    return jax.lax.broadcasted_iota(jnp.int32, (1, *x.shape[1:3], 1), axis) < bound
