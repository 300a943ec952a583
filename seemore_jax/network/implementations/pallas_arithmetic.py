"""Array operations of the stages of TPU kernels, once for XLA and once for the inside of Pallas kernels.

Both compute the same functions. Those for Pallas kernels have their own gradients, because Mosaic, the compiler of TPU
kernels, cannot compile the gradients that JAX derives.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float


class Arithmetic(NamedTuple):
    """Array operations of the stages. Arrays are (channels, pixels).

    Attributes:
      shifted: (window, lanes) → the window, rotated so that pixel p + lanes is at position p.
      parts: (array, count) → `count` equal parts of the array's rows; this inverts `stacked`.
      crop: (window, chunk) → the `chunk` pixels in the middle of the window.
      product: (precision, matrix, x) → matrix · x with sums in float32. Precision None is one bfloat16 pass.
      gelu: x → x·Φ(x).
      normalize: (channels, scale, bias, x) → LayerNorm over the first `channels` rows, with epsilon 1e-6. The other
        rows are padding and become zero.
    """

    shifted: Callable[[Array, int], Array]
    parts: Callable[[Array, int], tuple[Array, ...]]
    crop: Callable[[Array, int], Array]
    product: Callable[[Any, Array, Array], Array]
    gelu: Callable[[Array], Array]
    normalize: Callable[[int, Array, Array, Array], Array]


def stacked(arrays: Sequence[Float[Array, "_ p"]]) -> Float[Array, "rows p"]:
    """Concatenates arrays along the channels.

    Args:
      arrays: arrays with the same number of pixels; their numbers of channels are multiples of 8.

    Returns:
      One array with all channels.
    """
    return jnp.concatenate(arrays, axis=0)


def _shifted(window: Array, lanes: int) -> Array:
    return jnp.roll(window, -lanes, 1)


def _parts(array: Float[Array, "rows p"], count: int) -> tuple[Float[Array, "_ p"], ...]:
    rows = array.shape[0] // count
    return tuple(array[i * rows : (i + 1) * rows] for i in range(count))


def _crop(window: Array, chunk: int) -> Array:
    halo = (window.shape[1] - chunk) // 2
    return window[:, halo : halo + chunk] if halo else window


def _product(precision: Any, matrix: Float[Array, "m k"], x: Float[Array, "k p"]) -> Float[Array, "m p"]:
    return _dot(precision, matrix, x, 1, 0)


def _dot(precision: Any, a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    return jax.lax.dot_general(
        a, b, (((a_axis,), (b_axis,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def _gelu(x: Array) -> Array:
    return x * _normal_distribution(x)


def _normal_distribution(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _normalize(
    channels: int, scale: Float[Array, "rows 1"], bias: Float[Array, "rows 1"], x: Float[Array, "rows p"]
) -> Float[Array, "rows p"]:
    return _standardized(channels, x)[0] * scale + bias


def _standardized(channels: int, x: Array) -> tuple[Array, Array]:
    """Returns (x − mean) / σ over the first `channels` rows, and 1 / σ."""
    centred = x - jnp.sum(x, axis=0, keepdims=True) / channels
    if channels != x.shape[0]:
        centred *= (jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], 1), 0) < channels).astype(x.dtype)
    variance = jnp.sum(centred * centred, axis=0, keepdims=True) / channels
    inverse_deviation = jax.lax.rsqrt(variance + 1e-6)
    return centred * inverse_deviation, inverse_deviation


IN_XLA = Arithmetic(_shifted, _parts, _crop, _product, _gelu, _normalize)


# The same operations with their own gradients, for Pallas kernels.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _rolled(window: Array, lanes: int) -> Array:
    return pltpu.roll(window, -lanes % window.shape[1], 1)


_rolled.defvjp(
    lambda window, lanes: (_rolled(window, lanes), None),
    lambda lanes, _, ct: (pltpu.roll(ct, lanes % ct.shape[1], 1),),
)

_kernel_parts = jax.custom_vjp(_parts, nondiff_argnums=(1,))
_kernel_parts.defvjp(lambda array, count: (_parts(array, count), None), lambda count, _, cts: (stacked(cts),))


def _crop_backward(chunk: int, saved: Array, ct: Array) -> tuple[Array]:
    halo = (saved.shape[1] - chunk) // 2
    if not halo:
        return (ct,)
    zeros = jnp.zeros((ct.shape[0], halo), ct.dtype)
    return (jnp.concatenate([zeros, ct, zeros], axis=1),)


_kernel_crop = jax.custom_vjp(_crop, nondiff_argnums=(1,))
_kernel_crop.defvjp(lambda window, chunk: (_crop(window, chunk), window), _crop_backward)


def _product_backward(precision: Any, saved: tuple[Array, Array], ct: Array) -> tuple[Array, Array]:
    matrix, x = saved
    return _dot(precision, ct, x, 1, 1), _dot(precision, matrix.T, ct, 1, 0)


_kernel_product = jax.custom_vjp(_product, nondiff_argnums=(0,))
_kernel_product.defvjp(lambda precision, matrix, x: (_product(precision, matrix, x), (matrix, x)), _product_backward)


def _gelu_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    probability = _normal_distribution(x)
    return x * probability, (x, probability)


def _gelu_backward(saved: tuple[Array, Array], ct: Array) -> tuple[Array]:
    x, probability = saved
    return (ct * (probability + x * jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))),)


_kernel_gelu = jax.custom_vjp(_gelu)
_kernel_gelu.defvjp(_gelu_forward, _gelu_backward)


def _normalize_forward(channels: int, scale: Array, bias: Array, x: Array) -> tuple[Array, Any]:
    standardized, inverse_deviation = _standardized(channels, x)
    return standardized * scale + bias, (scale, standardized, inverse_deviation)


def _normalize_backward(channels: int, saved: Any, ct: Array) -> tuple[Array, Array, Array]:
    scale, standardized, inverse_deviation = saved
    scaled = ct * scale
    product_mean = jnp.sum(scaled * standardized, axis=0, keepdims=True) / channels
    mean = jnp.sum(scaled, axis=0, keepdims=True) / channels
    by_x = inverse_deviation * (scaled - mean - standardized * product_mean)
    return jnp.sum(ct * standardized, axis=1, keepdims=True), jnp.sum(ct, axis=1, keepdims=True), by_x


_kernel_normalize = jax.custom_vjp(_normalize, nondiff_argnums=(0,))
_kernel_normalize.defvjp(_normalize_forward, _normalize_backward)

IN_KERNELS = Arithmetic(_rolled, _kernel_parts, _kernel_crop, _kernel_product, _kernel_gelu, _kernel_normalize)
