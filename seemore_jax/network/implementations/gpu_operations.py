"""The fused operations of GPUs: for each operation its kernel, and the same function in JAX.

Feature maps are (N, H, W, C), in float32 or bfloat16; parameters are float32. The first array of each operation is the
valid region (`region_of`). Outside of it, the kernels return arbitrary finite values, and the functions in JAX return
zeros. There are no backward kernels: gradients are those of the functions in JAX.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32

from seemore_jax.network.depthwise import depthwise_conv_general_dilated
from seemore_jax.network.implementations.fused_operation import Arrays, FusedOperation
from seemore_jax.network.implementations.simt import launch
from seemore_jax.network.implementations.simt.variants import Variant, packed
from seemore_jax.network.layers import gelu
from seemore_jax.network.valid_region import ValidRegion, mask_outside, sum_inside

Map = Float[Array, "n h w c"]
Region = Int32[Array, "6"]

_EPSILON = 1e-6  # added to the variance in LayerNorm


def region_of(valid: ValidRegion, summary_shape: tuple[int | Array, int | Array]) -> Region:
    """Returns the first array of the operations: height and width of the valid region, `begin`, `end`, summary's size.

    Args:
      valid: valid region of the feature maps.
      summary_shape: height and width of the valid region of the summary.
    """
    fields = (valid.height, valid.width, valid.begin, valid.end, *summary_shape)
    return jnp.stack([jnp.asarray(field, jnp.int32) for field in fields])


# The operations in JAX.


def _embedding(
    region: Region,
    x: Map,
    scale: Array,
    offset: Array,
    kernel: Float[Array, "9 c c"],
    bias: Array,
    expand: Float[Array, "2 c c"],
    expand_bias: Float[Array, " d"],
    row: Array,
    row_bias: Array,
    column: Array,
    column_bias: Array,
    taps: Float[Array, "16 c"],
    taps_bias: Array,
) -> Arrays:
    """Computes the local features, the context, the sum of the features over the image, and the reduced context.

    With e = GELU(conv3(LN(x))) and (a, z) = conv1(e), the features are GELU(striped(a)), the context is z, and the
    reduced context is GELU(depthwise4(z)) with stride 4.
    """
    valid, convert = _valid(region), functools.partial(jnp.asarray, dtype=x.dtype)
    convolved = jax.lax.conv_general_dilated(
        mask_outside(_normalize(x, scale, offset), valid),
        convert(kernel).reshape(3, 3, *kernel.shape[1:]),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    embedded = gelu(convolved + convert(bias))
    local = _linear(embedded, expand[0], expand_bias[: x.shape[-1]])
    context = _linear(embedded, expand[1], expand_bias[x.shape[-1] :])
    features = gelu(_striped(local, valid, row, row_bias, column, column_bias))
    reduced = gelu(_depthwise(context, taps, (4, 4), (4, 4), "VALID") + convert(taps_bias))
    quarter = valid._replace(height=valid.height // 4, width=valid.width // 4)
    results = mask_outside(features, valid), mask_outside(context, valid)
    return *results, sum_inside(features, valid), mask_outside(reduced, quarter)


def _experts(
    region: Region,
    x: Map,
    features: Map,
    context: Map,
    summary: Float[Array, "n h2 w2 c"],
    rows: Int[Array, " h"],
    row_weights: Float[Array, " h"],
    columns: Int[Array, " w"],
    column_weights: Float[Array, " w"],
    from_features: Float[Array, "n c r"],
    from_features_bias: Float[Array, "n r"],
    from_context: Float[Array, "n c r"],
    from_context_bias: Float[Array, "n r"],
    out: Float[Array, "n d c"],
    out_bias: Float[Array, "n c"],
) -> Arrays:
    """Computes x + out([features, low_rank]); low_rank = from_features(features) · from_context(context + summary).

    Each image has its own weights. The summary is resized linearly: row i of the image lies between the rows `rows[i]`
    and `rows[i] + 1` of the summary, and `row_weights[i]` is the weight of the latter. Columns are alike.
    """
    resized = _resize(_resize(summary, 2, columns, column_weights, region[5]), 1, rows, row_weights, region[4])

    def linear(pixels: Array, kernel: Array, bias: Array) -> Array:
        product = jnp.einsum("nhwc,ncr->nhwr", pixels, kernel.astype(x.dtype), precision="highest")
        return product + bias.astype(x.dtype)[:, None, None]

    low_rank = linear(features, from_features, from_features_bias)
    low_rank *= linear(context + resized, from_context, from_context_bias)
    return (mask_outside(x + linear(jnp.concatenate([features, low_rank], axis=-1), out, out_bias), _valid(region)),)


def _feed_forward(
    region: Region,
    x: Map,
    scale: Array,
    offset: Array,
    expand: Float[Array, "2 c c"],
    expand_bias: Float[Array, " d"],
    taps: Float[Array, "9 c"],
    taps_bias: Array,
    project: Float[Array, "c c"],
    project_bias: Array,
) -> Arrays:
    """Computes x + GELU(project(values · depthwise3(gate))); values and gate are the halves of GELU(expand(LN(x)))."""
    values, gate = _expanded(x, scale, offset, expand, expand_bias)
    gate = _depthwise(mask_outside(gate, _valid(region)), taps, (3, 3)) + taps_bias.astype(x.dtype)
    return (mask_outside(x + gelu(_linear(values * gate, project, project_bias)), _valid(region)),)


def _enhancement(
    region: Region,
    x: Map,
    scale: Array,
    offset: Array,
    expand: Float[Array, "2 c c"],
    expand_bias: Float[Array, " d"],
    row: Array,
    row_bias: Array,
    column: Array,
    column_bias: Array,
    project: Float[Array, "c c"],
    project_bias: Array,
) -> Arrays:
    """Computes x + project(striped(query) · value); query and value are the halves of GELU(expand(LN(x)))."""
    query, value = _expanded(x, scale, offset, expand, expand_bias)
    striped = _striped(query, _valid(region), row, row_bias, column, column_bias)
    return (mask_outside(x + _linear(striped * value, project, project_bias), _valid(region)),)


def _valid(region: Region) -> ValidRegion:
    height, width, begin, end, *_ = region
    return ValidRegion(height, width, jnp.int32(0), height, begin, end)


def _normalize(x: Map, scale: Array, offset: Array) -> Map:
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + _EPSILON)
    return (centred * (factor * scale) + offset).astype(x.dtype)


def _linear(x: Map, kernel: Float[Array, "c d"], bias: Array) -> Array:
    return jnp.matmul(x, kernel.astype(x.dtype), precision="highest") + bias.astype(x.dtype)


def _expanded(x: Map, scale: Array, offset: Array, expand: Array, bias: Array) -> tuple[Map, Map]:
    """Computes the halves of GELU(expand(LN(x)))."""
    normalized, channels = _normalize(x, scale, offset), x.shape[-1]
    first, second = _linear(normalized, expand[0], bias[:channels]), _linear(normalized, expand[1], bias[channels:])
    return gelu(first), gelu(second)


def _striped(x: Map, valid: ValidRegion, row: Array, row_bias: Array, column: Array, column_bias: Array) -> Map:
    along_row = _depthwise(mask_outside(x, valid), row, (1, row.shape[0])) + row_bias.astype(x.dtype)
    along_column = _depthwise(mask_outside(along_row, valid), column, (column.shape[0], 1))
    return along_column + column_bias.astype(x.dtype)


def _depthwise(
    x: Map, taps: Float[Array, "k c"], size: tuple[int, int], strides: tuple[int, int] = (1, 1), padding: str = "SAME"
) -> Float[Array, "n h2 w2 c"]:
    return depthwise_conv_general_dilated(
        x,
        taps.astype(x.dtype).reshape(*size, 1, -1),
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


def _resize(x: Map, axis: int, above: Array, weights: Array, size: Array) -> Float[Array, "n h2 w2 c"]:
    below = jnp.minimum(above + 1, size - 1)
    weights = jnp.expand_dims(weights.astype(x.dtype), [i for i in range(x.ndim) if i != axis])
    return (1 - weights) * jnp.take(x, above, axis=axis) + weights * jnp.take(x, below, axis=axis)


# The kernels.


def _launched(name: str, matrices: Sequence[int], length_of: Callable[[Arrays], int]) -> Callable[..., Arrays]:
    """Returns the function that launches a kernel.

    Args:
      name: name of the kernel.
      matrices: positions of the arrays that are matrices, which the kernel takes in its own order.
      length_of: function of the arrays that returns `Variant.length`.
    """

    def forward(*arrays: Array) -> Arrays:
        x = arrays[1]
        dtype = x.dtype.name
        variant = Variant(name, x.shape[-1], dtype, length_of(arrays))
        converted = [packed(array, dtype) if i in matrices else array for i, array in enumerate(arrays)]
        if name == "experts":
            converted[_OUT] = _packed_out(arrays[_OUT], x.shape[-1], dtype)
        results = launch(variant, converted, _result_shapes(variant, x))
        if name != "embedding":
            return results
        features, context, sums, reduced = results
        return features, context, jnp.sum(sums, axis=1), reduced

    return forward


_OUT = 13  # position of the matrices from [features, low_rank] to the output of the experts


def _packed_out(out: Float[Array, "n d c"], channels: int, dtype: str) -> Array:
    """Packs two matrices one after the other, since features and low rank are padded separately."""
    return jnp.concatenate([packed(out[:, :channels], dtype), packed(out[:, channels:], dtype)], axis=1)


def _result_shapes(variant: Variant, x: Map) -> tuple[jax.ShapeDtypeStruct, ...]:
    n, height, width, channels = x.shape
    like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    if variant.name != "embedding":
        return (like_x,)
    across, down, _ = variant.grid(n, height, width)
    sums = jax.ShapeDtypeStruct((n, across * down, channels), jnp.float32)
    return like_x, like_x, sums, jax.ShapeDtypeStruct((n, height // 4, width // 4, channels), x.dtype)


def _fused(
    plain: Callable[..., Arrays],
    *,
    matrices: Sequence[int],
    batched: Sequence[int] = (1,),
    length_of: Callable[[Arrays], int] = lambda arrays: 0,
) -> FusedOperation:
    name = plain.__name__.lstrip("_")
    forward = _launched(name, matrices, length_of)
    return FusedOperation(f"gpu_{name}", plain, forward, None, tuple(batched), ("cuda", "cpu"))


OPERATIONS = {
    "embedding": _fused(_embedding, matrices=(4, 6)),
    # Each image has its own weights.
    "experts": _fused(
        _experts,
        matrices=(9, 11),
        batched=(1, 2, 3, 4, *range(9, 15)),
        length_of=lambda arrays: arrays[9].shape[-1],
    ),
    "feed_forward": _fused(_feed_forward, matrices=(4, 8)),
    "enhancement": _fused(_enhancement, matrices=(4, 10), length_of=lambda arrays: arrays[6].shape[0]),
}
