"""Depthwise convolution: how it is computed, chosen by backend in this one place."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from seemore_jax.system.devices import target_backend


def depthwise_conv_general_dilated(lhs: Array, rhs: Array, *arguments: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated` for one filter per channel, by the faster way on the backend it is for.

    XLA's grouped convolution is slow on a CPU; sums of shifted products are several times faster there.
    """
    if target_backend() == "cpu":
        return sum_of_shifted_products(lhs, rhs, *arguments, **options)
    return lax.conv_general_dilated(lhs, rhs, *arguments, **options)


def depthwise_conv_by_platform(
    lhs: Array, rhs: Array, window_strides: Sequence[int], *arguments: Any, **options: Any
) -> Array:
    """As above, chosen by the platform that the program runs on: for a program that is exported to several.

    The branches must agree on the size that a stride leaves, which JAX cannot prove where sizes are unknown: then, sums
    of shifted products on every platform.
    """

    def products(lhs: Array, rhs: Array) -> Array:
        return sum_of_shifted_products(lhs, rhs, window_strides, *arguments, **options)

    def convolution(lhs: Array, rhs: Array) -> Array:
        return lax.conv_general_dilated(lhs, rhs, window_strides, *arguments, **options)

    if max(window_strides) > 1:
        return products(lhs, rhs)
    return lax.platform_dependent(lhs, rhs, cpu=products, default=convolution)


def sum_of_shifted_products(
    lhs: Float[Array, "n h w c"],
    rhs: Float[Array, "kh kw 1 c"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "n h2 w2 c"]:
    """A depthwise convolution as one product and sum for each tap of the filter.

    Args:
      lhs: feature maps.
      rhs: the filters.
      window_strides: along height and width.
      padding: as for `jax.lax.conv_general_dilated`.
      **options: of that function; none of those that a depthwise convolution without dilation takes changes anything.
    """
    del options
    size, strides = rhs.shape[:2], tuple(window_strides)
    pads = lax.padtype_to_pads(lhs.shape[1:3], size, strides, padding) if isinstance(padding, str) else padding
    if any(map(any, pads)):
        # Without the barrier, XLA computes what `lhs` is made of once for each tap.
        lhs = lax.optimization_barrier(jnp.pad(lhs, ((0, 0), *pads, (0, 0))))
    last = [side - k for side, k in zip(lhs.shape[1:3], size, strict=True)]
    taps = [
        lhs[:, i : i + last[0] + 1 : strides[0], j : j + last[1] + 1 : strides[1]] * rhs[i, j, 0]
        for i in range(size[0])
        for j in range(size[1])
    ]
    return functools.reduce(jnp.add, taps)
