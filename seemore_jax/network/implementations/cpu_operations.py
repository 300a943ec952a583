"""The fused operations of the CPU: for each operation its C++ kernels, and the same function in JAX.

Feature maps are (N, H, C, P): each image row is C lines of P floats, where P is the width rounded up to a multiple of
16. The first array of each operation is the valid region of the feature maps (`KernelRegion`). Outside of the valid
region, the kernels return arbitrary finite values, and the functions in JAX return zeros.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seemore_jax.network.depthwise import depthwise_conv_general_dilated
from seemore_jax.network.implementations.fused_operation import Arrays, FusedOperation
from seemore_jax.network.layers import gelu
from seemore_jax.network.valid_region import ValidRegion, mask_outside, resize_axis, sum_inside

Lines = Float[Array, "n h c p"]  # layout of the kernels
Pixels = Float[Array, "n h p c"]  # layout of the layers in JAX

_EPSILON = 1e-6  # added to the variance in LayerNorm
_product = functools.partial(jnp.matmul, precision="highest")


class KernelRegion(NamedTuple):
    """Valid region of the padded arrays, in pixels. `ValidRegion` in native/signature.h has the same fields.

    Attributes:
      height, width: size of the valid region in the arrays.
      first_row: index, in the full image, of the array's first row.
      image_height: height of the full image, of which the arrays may hold only some rows.
      summary_rows: number of valid rows in the summary of the context.
      begin, end: rows that count in sums over the image, from `begin` to `end` − 1. The other valid rows belong to
        neighbouring strips.
      compute_begin, compute_end: rows that a kernel computes, from `compute_begin` to `compute_end` − 1.
    """

    height: Int[Array, ""]
    width: Int[Array, ""]
    first_row: Int[Array, ""]
    image_height: Int[Array, ""]
    summary_rows: Int[Array, ""]
    begin: Int[Array, ""]
    end: Int[Array, ""]
    compute_begin: Int[Array, ""]
    compute_end: Int[Array, ""]

    @property
    def valid_region(self) -> ValidRegion:
        """The fields that the plain network uses."""
        return ValidRegion(self.height, self.width, self.first_row, self.image_height, self.begin, self.end)


@functools.cache
def operation(name: str, trusts_backward: Callable[[], bool] | None = None) -> FusedOperation:
    """Returns a fused operation of the CPU.

    Args:
      name: name of the operation, such as "convolution"; the kernel is `seemore_` + name.
      trusts_backward: function that says whether the backward kernel may be used (see `FusedOperation`).

    Returns:
      The operation: a function of the region, int32 [9] with the fields of `KernelRegion`, and of its float32 arrays.
      Equal arguments return the same object, so that compiled programs are shared.
    """
    return dataclasses.replace(_OPERATIONS[name], trusts_backward=trusts_backward)


def no_norm() -> tuple[Float[Array, "0"], Float[Array, "0"]]:
    """Returns the scale and offset that `convolution` takes if no LayerNorm precedes it: two empty arrays."""
    empty = jnp.zeros(0, jnp.float32)
    return empty, empty


# The operations in JAX.


def _convolution(region: Array, x: Lines, scale: Array, offset: Array, taps: Array, bias: Array) -> Arrays:
    """Computes a dense 3×3 convolution of x, or of LN(x) if `scale` and `offset` are not those of `no_norm`."""
    valid, pixels = KernelRegion(*region).valid_region, _to_pixels(x)
    if scale.size:
        pixels = _normalize(pixels) * scale + offset
    convolved = jax.lax.conv_general_dilated(
        mask_outside(pixels, valid),
        taps.reshape(3, 3, -1, bias.shape[0]),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    return (_to_lines(convolved + bias, valid),)


def _features_and_context(region: Array, x: Lines, *weights: Array) -> Arrays:
    """Computes the local features and the context of an embedded input, and the sum of the features over the image."""
    valid = KernelRegion(*region).valid_region
    features, context = _separate(valid, x, *weights)
    return _to_lines(features, valid), _to_lines(context, valid), sum_inside(features, valid)


def _separate(
    valid: ValidRegion, x: Lines, expand: Array, expand_bias: Array, *striped: Array
) -> tuple[Pixels, Pixels]:
    expanded = _product(gelu(_to_pixels(x)), expand) + expand_bias
    local, context = jnp.split(expanded, 2, axis=-1)
    return gelu(_striped(local, valid, *striped)), context


def _global_statistics(region: Array, x: Lines, *arrays: Array) -> Arrays:
    """Computes the sum of the features over the image, and the context after its first reduction, before GELU."""
    *separating, taps, bias = arrays
    _, context, features_sum = _features_and_context(region, x, *separating)
    return features_sum, *_reduction(region, context, taps, bias)


def _reduction(region: Array, context: Lines, taps: Array, bias: Array) -> Arrays:
    """Computes the first reduction of the context, a depthwise 4×4 convolution with stride 4, without GELU."""
    valid = KernelRegion(*region).valid_region
    reduced = _depthwise(_to_pixels(context), taps, (4, 4), (4, 4), "VALID") + bias
    quarter = valid._replace(height=valid.height // 4, width=valid.width // 4)
    return (_to_lines(reduced, quarter),)


def _low_rank_experts(
    region: Array,
    x: Lines,
    features: Lines,
    context: Lines,
    summary: Float[Array, "n h2 c p"],
    from_features: Float[Array, "n c r"],
    from_features_bias: Float[Array, "n r"],
    from_context: Float[Array, "n c r"],
    from_context_bias: Float[Array, "n r"],
    out: Float[Array, "n cr c"],
    out_bias: Float[Array, "n c"],
) -> Arrays:
    """Computes x + out([features, low_rank]); low_rank = from_features(features) · from_context(context + summary).

    Each image has its own weights: those of the chosen experts, concatenated into one expert of rank Σr. The summary
    has fewer rows than the context and is resized along the height.
    """
    fields = KernelRegion(*region)
    resized = resize_axis(
        _to_pixels(summary), 1, x.shape[1], fields.summary_rows, fields.image_height, fields.first_row
    )
    pixels = _to_pixels(features)

    def linear(pixels: Array, kernel: Array, bias: Array) -> Array:
        return jnp.einsum("nhwc,ncr->nhwr", pixels, kernel, precision="highest") + bias[:, None, None]

    low_rank = linear(pixels, from_features, from_features_bias)
    low_rank *= linear(_to_pixels(context) + resized, from_context, from_context_bias)
    mixed = linear(jnp.concatenate([pixels, low_rank], axis=-1), out, out_bias)
    return (_to_lines(_to_pixels(x) + mixed, fields.valid_region),)


def _low_rank_experts_of_embedded(region: Array, x: Lines, embedded: Lines, *arrays: Array) -> Arrays:
    """Computes `_low_rank_experts`, with features and context computed from the embedded input."""
    separating, experts = arrays[:6], arrays[6:]
    features, context, _ = _features_and_context(region, embedded, *separating)
    return _low_rank_experts(region, x, features, context, *experts)


def _gated_feed_forward(
    region: Array,
    x: Lines,
    expand: Array,
    expand_bias: Array,
    taps: Array,
    taps_bias: Array,
    project: Array,
    project_bias: Array,
) -> Arrays:
    """Computes x + GELU(project(values · depthwise3(gate))); values and gate are the halves of GELU(expand(LN(x)))."""
    valid, pixels = KernelRegion(*region).valid_region, _to_pixels(x)
    values, gate = jnp.split(gelu(_product(_normalize(pixels), expand) + expand_bias), 2, axis=-1)
    gate = _depthwise(mask_outside(gate, valid), taps, (3, 3)) + taps_bias
    return (_to_lines(pixels + gelu(_product(values * gate, project) + project_bias), valid),)


def _spatial_enhancement(region: Array, x: Lines, expand: Array, expand_bias: Array, *arrays: Array) -> Arrays:
    """Computes x + project(striped(query) · value); query and value are the halves of GELU(expand(LN(x)))."""
    valid, pixels = KernelRegion(*region).valid_region, _to_pixels(x)
    *striped, project, project_bias = arrays
    query, value = jnp.split(gelu(_product(_normalize(pixels), expand) + expand_bias), 2, axis=-1)
    enhanced = _product(_striped(query, valid, *striped) * value, project) + project_bias
    return (_to_lines(pixels + enhanced, valid),)


def _striped(x: Pixels, valid: ValidRegion, row: Array, row_bias: Array, column: Array, column_bias: Array) -> Pixels:
    along_row = _depthwise(mask_outside(x, valid), row, (1, row.shape[0])) + row_bias
    return _depthwise(mask_outside(along_row, valid), column, (column.shape[0], 1)) + column_bias


def _depthwise(
    x: Pixels,
    taps: Float[Array, "k c"],
    size: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    padding: str = "SAME",
) -> Float[Array, "n h2 p2 c"]:
    return depthwise_conv_general_dilated(
        x,
        taps.reshape(*size, 1, -1),
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


def _normalize(x: Pixels) -> Pixels:
    """Computes LayerNorm without its affine map."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + _EPSILON)


def _to_pixels(x: Lines) -> Pixels:
    return x.swapaxes(2, 3)


def _to_lines(x: Pixels, valid: ValidRegion) -> Lines:
    return mask_outside(x, valid).swapaxes(2, 3)


# The kernels.


def _kernel(name: str) -> Callable[..., Arrays]:
    """Returns the function that calls an operation's forward kernel."""

    def forward(region: Array, *arrays: Array) -> Arrays:
        shapes = _result_shapes(name, arrays)
        return tuple(jax.ffi.ffi_call(f"seemore_{name}", shapes)(region, *arrays))

    return forward


def _backward_kernel(name: str) -> Callable[..., Arrays]:
    """Returns the function that calls an operation's backward kernel, for `FusedOperation.backward`."""

    def backward(arrays: Arrays, cotangents: Arrays) -> Arrays:
        return _call_backward(name, arrays, cotangents, with_cotangent=arrays[1:])

    return backward


def _call_backward(
    name: str, arrays: Sequence[Array], cotangents: Sequence[Array], with_cotangent: Sequence[Array]
) -> Arrays:
    """Calls a backward kernel, which returns the cotangents of the arrays in `with_cotangent`."""
    shapes = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in with_cotangent)
    return tuple(jax.ffi.ffi_call(f"seemore_{name}_backward", shapes)(*arrays, *cotangents))


def _low_rank_experts_backward(arrays: Arrays, cotangents: Arrays) -> Arrays:
    """Returns the cotangents of all arrays; the kernel computes those of features, context and weights.

    The cotangent of x is that of the result. The cotangent of the resized summary is that of the context.
    """
    (cotangent,) = cotangents
    region, x, features, context, summary, *experts = arrays
    others = _call_backward("low_rank_experts", arrays, cotangents, [features, context, *experts])
    fields = KernelRegion(*region)
    resize = functools.partial(
        resize_axis,
        axis=1,
        length=x.shape[1],
        source=fields.summary_rows,
        target=fields.image_height,
        first=fields.first_row,
    )
    (of_summary,) = jax.linear_transpose(resize, summary)(others[1])
    return cotangent, *others[:2], of_summary, *others[2:]


def _result_shapes(name: str, arrays: Sequence[Array]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns the shapes of an operation's results, from its arrays after the region."""
    x = arrays[0]
    n, height, channels, pitch = x.shape
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    features_sum, reduced = shape((n, channels)), shape((n, height // 4, channels, pitch // 4))
    if name == "convolution":
        return (shape((n, height, arrays[-1].shape[0], pitch)),)
    if name == "features_and_context":
        return shape(x.shape), shape(x.shape), features_sum
    if name == "global_statistics":
        return features_sum, reduced
    return (reduced,) if name == "reduction" else (shape(x.shape),)


def _fused(
    plain: Callable[..., Arrays], *, batched: Sequence[int] = (1,), backward: Callable[..., Arrays] | None = None
) -> FusedOperation:
    """Makes the operation of a function in JAX and of the kernels that are named like it."""
    name = plain.__name__.lstrip("_")
    return FusedOperation(name, plain, _kernel(name), backward, tuple(batched), ("cpu",))


_OPERATIONS = {
    fused.name: fused
    for fused in (
        *(
            _fused(plain, backward=_backward_kernel(plain.__name__.lstrip("_")))
            for plain in (_convolution, _features_and_context, _reduction, _gated_feed_forward, _spatial_enhancement)
        ),
        # All arrays but the region have the images as their first axis, since each image has its own expert weights.
        _fused(_low_rank_experts, batched=range(1, 11), backward=_low_rank_experts_backward),
        # Only inference computes images in strips, so that these operations have no backward kernels.
        _fused(_global_statistics),
        _fused(_low_rank_experts_of_embedded, batched=(1, 2, *range(9, 16))),
    )
}
