"""Depthwise convolution, computed by the faster of two methods for each backend.

XLA's grouped convolution is slow on a CPU: there, a sum of shifted products is several times faster. For a GPU, XLA
fuses the products with what comes before and after them, where a convolution reads and writes all of its arrays.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from seemore_jax.system.devices import target_backend


def depthwise_conv_general_dilated(lhs: Array, rhs: Array, *arguments: Any, **options: Any) -> Array:
    """Computes a depthwise convolution by the faster method on the backend that the program is compiled for.

    Args:
      lhs: feature maps (N, H, W, C).
      rhs: filters (KH, KW, 1, C), one for each channel.
      *arguments: further arguments of `jax.lax.conv_general_dilated`.
      **options: keyword arguments of that function.

    Returns:
      The feature maps after the convolution.
    """
    backend = target_backend()
    if backend == "tpu":
        return lax.conv_general_dilated(lhs, rhs, *arguments, **options)
    if backend == "gpu":
        return sum_of_shifted_products(lhs, rhs, *arguments, by_rows=True, **options)
    return sum_of_shifted_products(lhs, rhs, *arguments, **options)


def depthwise_conv_by_platform(
    lhs: Array, rhs: Array, window_strides: Sequence[int], *arguments: Any, **options: Any
) -> Array:
    """Computes a depthwise convolution by the faster method on the platform that runs the program.

    This is for programs that are exported for several platforms. Both methods must return arrays of the same shape.
    With strides above 1, JAX cannot prove this for unknown image sizes. Therefore, all platforms then use the sum of
    shifted products.

    Args:
      lhs: feature maps (N, H, W, C).
      rhs: filters (KH, KW, 1, C), one for each channel.
      window_strides: strides along height and width.
      *arguments: further arguments of `jax.lax.conv_general_dilated`.
      **options: keyword arguments of that function.

    Returns:
      The feature maps after the convolution.
    """

    def products(lhs: Array, rhs: Array) -> Array:
        return sum_of_shifted_products(lhs, rhs, window_strides, *arguments, **options)

    def convolution(lhs: Array, rhs: Array) -> Array:
        return lax.conv_general_dilated(lhs, rhs, window_strides, *arguments, **options)

    if max(window_strides) > 1:
        return products(lhs, rhs)
    return lax.platform_dependent(lhs, rhs, tpu=convolution, default=products)


def sum_of_shifted_products(
    lhs: Float[Array, "n h w c"],
    rhs: Float[Array, "kh kw 1 c"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    by_rows: bool = False,
    **options: Any,
) -> Float[Array, "n h2 w2 c"]:
    """Computes a depthwise convolution without dilation as a sum over the taps of shifted input times tap.

    Args:
      lhs: feature maps.
      rhs: filters, one for each channel.
      window_strides: strides along height and width.
      padding: padding as for `jax.lax.conv_general_dilated`.
      by_rows: whether the gradient of the filters is summed over each row of pixels first. For a GPU, XLA then adds
        the sums of all taps in one kernel, and not in one for each tap.
      **options: keyword arguments of that function; they are ignored, because they describe this convolution.

    Returns:
      The feature maps after the convolution.
    """
    del options
    size, strides = rhs.shape[:2], tuple(window_strides)
    pads = lax.padtype_to_pads(lhs.shape[1:3], size, strides, padding) if isinstance(padding, str) else padding
    if any(map(any, pads)):
        # Without the barrier, XLA fuses the computation of `lhs` into each tap, and so repeats it.
        lhs = lax.optimization_barrier(jnp.pad(lhs, ((0, 0), *pads, (0, 0))))
    last = [side - k for side, k in zip(lhs.shape[1:3], size, strict=True)]
    filters = rhs[:, :, 0]
    if by_rows:
        rows = (lhs.shape[0], last[0] // strides[0] + 1, 1)
        filters = jnp.broadcast_to(filters[:, :, None, None, None], (*size, *rows, lhs.shape[3]))
    taps = [
        lhs[:, i : i + last[0] + 1 : strides[0], j : j + last[1] + 1 : strides[1]] * filters[i, j]
        for i in range(size[0])
        for j in range(size[1])
    ]
    return functools.reduce(jnp.add, taps)
