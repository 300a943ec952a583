"""The fused operations of GPUs: for each operation its kernel, and the same function in JAX.

Feature maps are (N, H, W, C), in float32 or bfloat16; parameters are float32. The first array of each operation is the
valid region (`region_of`). Outside of it, the kernels return arbitrary finite values, and the functions in JAX return
zeros. There are no backward kernels: gradients are those of the functions in JAX.

Operations with matrices have them twice: those of a residual group for the function in JAX, and, in the last arrays
(`gpu_weights.arranged`), those of all groups for the kernel, which takes the ones at `index`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32

from seemore_jax.network.depthwise import depthwise_conv_general_dilated
from seemore_jax.network.implementations.fused_operation import Arrays, FusedOperation
from seemore_jax.network.implementations.simt import launch
from seemore_jax.network.implementations.simt.variants import Variant
from seemore_jax.network.layers import gelu
from seemore_jax.network.valid_region import ValidRegion, mask_outside, mask_uncounted

Map = Float[Array, "n h w c"]
Region = Int32[Array, "6"]
Index = Int32[Array, ""]  # of a residual group, or of a layer of all groups

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
    index: Index,
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
    *arranged: Array,
) -> Arrays:
    """Computes the local features, the context, the sums of the features over each tile, and the reduced context.

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
    return *results, _tile_sums(features, valid), mask_outside(reduced, quarter)


def _tile_sums(features: Map, valid: ValidRegion) -> Float[Array, "n tiles c"]:
    """Returns the sums over each tile of the kernel, float32, of the features that the mean over the image takes."""
    n, height, width, channels = features.shape
    variant = Variant("embedding", channels, features.dtype.name)
    assert variant.tile is not None
    across, down, _ = variant.grid(n, height, width)
    tile_height, tile_width, _ = variant.tile
    counted = mask_uncounted(features, valid).astype(jnp.float32)
    padding = (0, 0), (0, down * tile_height - height), (0, across * tile_width - width), (0, 0)
    tiles = jnp.pad(counted, padding).reshape(n, down, tile_height, across, tile_width, channels)
    return jnp.sum(tiles, axis=(2, 4)).reshape(n, -1, channels)


def _routing(
    region: Region,
    sums: Float[Array, "n tiles c"],
    reduced: Float[Array, "n h2 w2 c"],
    router: Float[Array, "c num_experts"],
    reduction: Float[Array, "16 c"],
    reduction_bias: Array,
    taps: Float[Array, "9 c"],
    taps_bias: Array,
    pointwise: Float[Array, "c c"],
    pointwise_bias: Array,
    *,
    reduces: bool,
) -> Arrays:
    """Computes the probabilities of the experts, and the summary of the context.

    `sums` are those of `_embedding`. The probabilities are softmax(W · mean of the features), float32, and the summary
    is pointwise(depthwise3(reduced)). If `reduces`, the context is first reduced once more: GELU(depthwise4(reduced)).
    """
    if reduces:
        reduced = gelu(_depthwise(reduced, reduction, (4, 4), (4, 4), "VALID") + reduction_bias.astype(reduced.dtype))
    pixels = region[0].astype(jnp.float32) * region[1].astype(jnp.float32)
    logits = jnp.matmul(jnp.sum(sums, axis=1) / pixels, router, precision="highest")
    small = _valid(region)._replace(height=region[4], width=region[5])
    convolved = _depthwise(mask_outside(reduced, small), taps, (3, 3)) + taps_bias.astype(reduced.dtype)
    return jax.nn.softmax(logits, axis=-1), mask_outside(_linear(convolved, pointwise, pointwise_bias), small)


def _experts(
    region: Region,
    index: Index,
    x: Map,
    features: Map,
    context: Map,
    summary: Float[Array, "n h2 w2 c"],
    rows: Int[Array, " h"],
    row_weights: Float[Array, " h"],
    columns: Int[Array, " w"],
    column_weights: Float[Array, " w"],
    probabilities: Float[Array, "n num_experts"],
    from_features: Float[Array, "num_experts c r"],
    from_features_bias: Float[Array, "num_experts r"],
    from_context: Float[Array, "num_experts c r"],
    from_context_bias: Float[Array, "num_experts r"],
    up: Float[Array, "num_experts r c"],
    up_bias: Float[Array, "num_experts c"],
    project: Float[Array, "c c"],
    project_bias: Array,
    *arranged: Array,
    topk: int,
) -> Arrays:
    """Computes x + project(features + Σ p · up(low_rank)) over the `topk` most probable experts of each image.

    low_rank is from_features(features) · from_context(context + summary). The summary is resized linearly: row i of the
    image lies between the rows `rows[i]` and `rows[i] + 1` of the summary, and `row_weights[i]` is the weight of the
    latter. Columns are alike.
    """
    weights, chosen = jax.lax.top_k(probabilities, topk)
    resized = _resize(_resize(summary, 2, columns, column_weights, region[5]), 1, rows, row_weights, region[4])

    def down(pixels: Array, kernel: Array, bias: Array) -> Float[Array, "n h w k r"]:
        product = jnp.einsum("nhwc,nkcr->nhwkr", pixels, kernel[chosen].astype(x.dtype), precision="highest")
        return product + bias[chosen].astype(x.dtype)[:, None, None]

    low_rank = down(features, from_features, from_features_bias)
    low_rank *= down(context + resized, from_context, from_context_bias)
    # The projection is linear: the last map of the experts includes it.
    projected = jnp.einsum("nkrc,cd->nkrd", up[chosen] * weights[..., None, None], project, precision="highest")
    bias = project_bias + jnp.einsum("nkc,nk,cd->nd", up_bias[chosen], weights, project, precision="highest")
    mixed = jnp.einsum("nhwkr,nkrd->nhwd", low_rank, projected.astype(x.dtype), precision="highest")
    mixed += jnp.matmul(features, project.astype(x.dtype), precision="highest")
    return (mask_outside(x + (mixed + bias.astype(x.dtype)[:, None, None]), _valid(region)),)


def _feed_forward(
    region: Region,
    index: Index,
    x: Map,
    scale: Array,
    offset: Array,
    expand: Float[Array, "2 c c"],
    expand_bias: Float[Array, " d"],
    taps: Float[Array, "9 c"],
    taps_bias: Array,
    project: Float[Array, "c c"],
    project_bias: Array,
    *arranged: Array,
) -> Arrays:
    """Computes x + GELU(project(values · depthwise3(gate))); values and gate are the halves of GELU(expand(LN(x)))."""
    values, gate = _expanded(x, scale, offset, expand, expand_bias)
    gate = _depthwise(mask_outside(gate, _valid(region)), taps, (3, 3)) + taps_bias.astype(x.dtype)
    return (mask_outside(x + gelu(_linear(values * gate, project, project_bias)), _valid(region)),)


def _enhancement(
    region: Region,
    index: Index,
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
    *arranged: Array,
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

# Positions of the arrays that are only for the function in JAX.
_NOT_ARRANGED = {
    "embedding": (5, 7, 8),
    "experts": (11, 12, 13, 14, 15, 16, 17),
    "feed_forward": (5, 9),
    "enhancement": (5, 11),
}


def _embedding_kernel(*arrays: Array) -> Arrays:
    x = arrays[2]
    n, height, width, channels = x.shape
    variant = Variant("embedding", channels, x.dtype.name)
    grid = variant.grid(n, height, width)
    results = (
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct((n, grid[0] * grid[1], channels), jnp.float32),
        jax.ShapeDtypeStruct((n, height // 4, width // 4, channels), x.dtype),
    )
    return launch(variant, _for_kernel(variant, arrays), results, grid=grid, sizes=(height, width))


def _routing_kernel(*arrays: Array, reduces: bool) -> Arrays:
    sums, reduced, router = arrays[1:4]
    n, height, width, channels = reduced.shape
    small = (height // 4, width // 4) if reduces else (height, width)
    variant = Variant("routing", channels, reduced.dtype.name, int(reduces), router.shape[1])
    probabilities = jax.ShapeDtypeStruct((n, router.shape[1]), jnp.float32)
    results = probabilities, jax.ShapeDtypeStruct((n, *small, channels), reduced.dtype)
    grid = variant.grid(n, *small)
    return launch(variant, arrays, results, grid=grid, sizes=(sums.shape[1], 1), summary=(*small, height, width))


def _experts_kernel(*arrays: Array, topk: int) -> Arrays:
    x, summary, from_features = arrays[2], arrays[5], arrays[11]
    num_experts, _, rank = from_features.shape
    variant = Variant("experts", x.shape[-1], x.dtype.name, rank, num_experts, topk)
    return _launched_on_map(variant, arrays, summary.shape[1:3])


def _feed_forward_kernel(*arrays: Array) -> Arrays:
    x = arrays[2]
    return _launched_on_map(Variant("feed_forward", x.shape[-1], x.dtype.name), arrays)


def _enhancement_kernel(*arrays: Array) -> Arrays:
    x, row = arrays[2], arrays[7]
    return _launched_on_map(Variant("enhancement", x.shape[-1], x.dtype.name, row.shape[0]), arrays)


def _launched_on_map(variant: Variant, arrays: Arrays, summary: tuple[int, ...] = ()) -> Arrays:
    """Launches a kernel whose result is like `x`."""
    x = arrays[2]
    grid, like_x = variant.grid(*x.shape[:3]), jax.ShapeDtypeStruct(x.shape, x.dtype)
    return launch(variant, _for_kernel(variant, arrays), (like_x,), grid=grid, sizes=x.shape[1:3], summary=summary)


def _for_kernel(variant: Variant, arrays: Arrays) -> Arrays:
    return tuple(array for i, array in enumerate(arrays) if i not in _NOT_ARRANGED[variant.name])


def _fused(name: str, plain: Callable[..., Arrays], forward: Callable[..., Arrays], *batched: int) -> FusedOperation:
    return FusedOperation(f"gpu_{name}", plain, forward, None, batched, ("cuda", "cpu"))


OPERATIONS = {
    "embedding": _fused("embedding", _embedding, _embedding_kernel, 2),
    "feed_forward": _fused("feed_forward", _feed_forward, _feed_forward_kernel, 2),
    "enhancement": _fused("enhancement", _enhancement, _enhancement_kernel, 2),
}


@functools.cache
def routing_operation(reduces: bool) -> FusedOperation:
    """Returns the operation of the router and the summary.

    Args:
      reduces: whether it reduces the context once more.
    """
    plain, forward = (functools.partial(function, reduces=reduces) for function in (_routing, _routing_kernel))
    return _fused("routing", plain, forward, 1, 2)


@functools.cache
def experts_operation(topk: int) -> FusedOperation:
    """Returns the operation of the experts.

    Args:
      topk: number of chosen experts of an image.
    """
    plain, forward = (functools.partial(function, topk=topk) for function in (_experts, _experts_kernel))
    return _fused("experts", plain, forward, 2, 3, 4, 5, 10)
