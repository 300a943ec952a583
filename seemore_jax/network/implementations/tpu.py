"""Implementation for a TPU: each block of a residual group is one fused kernel.

Between blocks, feature maps are (N, rows, lanes): the channels in sublanes, padded to a multiple of 8, and the H·W
pixels in lanes, padded to a multiple of a chunk. The layout (N, H, W, C) would use only 36 or 48 of 128 lanes. XLA
computes the router and the summary of the context, which are small. The groups are one `lax.scan`. If there are many,
it is a loop, which is compiled once.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.depthwise import depthwise_conv_general_dilated
from seemore_jax.network.implementations import padded
from seemore_jax.network.implementations import pallas_blocks as blocks
from seemore_jax.network.implementations.pallas_kernels import apply
from seemore_jax.network.implementations.pallas_stages import BlockWeights, MapShape
from seemore_jax.network.implementations.tpu_weights import GroupWeights, group_weights, reconstruction_weights
from seemore_jax.network.layers import gelu, resize_bilinear
from seemore_jax.network.routing import Routing
from seemore_jax.network.seemore import ResidualGroup, SeemoReNetwork
from seemore_jax.network.valid_region import ValidRegion

# For images of at most this many pixels, products with dense matrices reduce and resize the context.
_DENSE_PIXELS = 8192
# Up to this many groups are compiled one after the other. A loop over groups copies the maps that the backward pass
# needs into stacks, and back. More groups take long to compile.
_UNROLLED_GROUPS = 8

FeatureLanes = Float[Array, "n rows lanes"]


def apply_network(
    model: SeemoReNetwork, lr: Float[Array, "n h w 3"], region: ValidRegion | None = None
) -> tuple[Float[Array, "n sh sw 3"], Routing]:
    """Computes `SeemoReNetwork.__call__`. XLA computes the first convolution and the pixel shuffle.

    Args:
      model: network.
      lr: low-resolution images with values in [0, 1].
      region: valid region of `lr`; None if the images fill the array.

    Returns:
      What `plain.apply_network` returns.
    """
    if region is not None:
        return padded.apply_network(model, lr, region)
    shape = MapShape.of(lr.shape[1], lr.shape[2], model.config)
    shallow = to_map(model.extract(lr).astype(model.config.compute_dtype), shape)
    x, routing = _apply_groups(model.groups, shallow, shape, model.config)
    return reconstruct(model, x, shallow, shape), routing


def apply_groups(
    groups: Sequence[ResidualGroup],
    x: Float[Array, "n h w c"],
    config: SeemoReConfig,
) -> tuple[Float[Array, "n h w c"], Routing]:
    """Applies all residual groups.

    Args:
      groups: residual groups.
      x: shallow features.
      config: configuration of the network.

    Returns:
      The features after all groups, and the routing with a `groups` axis.
    """
    shape = MapShape.of(x.shape[1], x.shape[2], config)
    maps, routing = _apply_groups(groups, to_map(x.astype(config.compute_dtype), shape), shape, config)
    return from_map(maps, shape), routing


def _apply_groups(
    groups: Sequence[ResidualGroup], x: FeatureLanes, shape: MapShape, config: SeemoReConfig
) -> tuple[FeatureLanes, Routing]:
    """Applies all residual groups to features in the layout of `to_map`."""
    split = [nnx.split(group) for group in groups]
    graph = split[0][0]
    states = jax.tree.map(lambda *layers: jnp.stack(layers).astype(jnp.float32), *(state for _, state in split))
    weights = jax.vmap(lambda state: group_weights(nnx.merge(graph, state), shape, config))(states)

    def step(x: Array, weights: GroupWeights) -> tuple[Array, Routing]:
        return apply_group(weights, x, shape, config)

    if config.rematerialize:
        step = jax.checkpoint(step, prevent_cse=False)  # inside a scan, no barrier is needed
    unroll = len(groups) if len(groups) <= _UNROLLED_GROUPS and not config.rematerialize else 1
    x, routings = jax.lax.scan(step, x, weights, unroll=unroll)
    return x, jax.tree.map(lambda layers: jnp.moveaxis(layers, 0, 1), routings)


def reconstruct(
    model: SeemoReNetwork, x: FeatureLanes, shallow: FeatureLanes, shape: MapShape
) -> Float[Array, "n sh sw 3"]:
    """Computes `model.reconstruct`.

    Args:
      model: network.
      x: features after all residual groups, in the layout of `to_map`.
      shallow: shallow features, in the same layout.
      shape: shape of the feature maps.
    """
    block = blocks.reconstruction(shape, model.config.scale)
    values = apply(block, shape, reconstruction_weights(model, shape), {}, [x, shallow])[0]
    pixels = values[:, : 3 * model.config.scale**2, : shape.pixels].transpose(0, 2, 1)
    return model.assemble(pixels.reshape(-1, shape.height, shape.width, pixels.shape[2]))


def apply_group(
    weights: GroupWeights, x: FeatureLanes, shape: MapShape, config: SeemoReConfig
) -> tuple[FeatureLanes, Routing]:
    """Applies one residual group.

    Args:
      weights: parameters of the group.
      x: input, in the layout of `to_map`.
      shape: shape of the feature maps.
      config: configuration of the network.

    Returns:
      The output of the group, and its routing.
    """
    x, routing = apply_mixture(weights, x, shape, config)
    x = apply_feed_forward(weights.feed_forwards[0], x, shape)
    x = apply_enhancement(weights.enhancement, x, shape, config)
    return apply_feed_forward(weights.feed_forwards[1], x, shape), routing


def apply_feed_forward(weights: BlockWeights, x: FeatureLanes, shape: MapShape) -> FeatureLanes:
    """Returns x + GatedFFN(LN(x)).

    Args:
      weights: weights of `blocks.feed_forward`.
      x: input, in the layout of `to_map`.
      shape: shape of the feature maps.
    """
    return apply(blocks.feed_forward(shape), shape, weights, {}, [x])[0]


def apply_enhancement(weights: BlockWeights, x: FeatureLanes, shape: MapShape, config: SeemoReConfig) -> FeatureLanes:
    """Returns x + SEE(LN(x)) (paper, section 3.4).

    Args:
      weights: weights of `blocks.enhancement`.
      x: input, in the layout of `to_map`.
      shape: shape of the feature maps.
      config: configuration of the network.
    """
    return apply(blocks.enhancement(shape, config.global_kernel_size), shape, weights, {}, [x])[0]


def apply_mixture(
    weights: GroupWeights, x: FeatureLanes, shape: MapShape, config: SeemoReConfig
) -> tuple[FeatureLanes, Routing]:
    """Returns x + MoRE(LN(x)), and the routing (paper, section 3.3).

    Args:
      weights: parameters of the group.
      x: input, in the layout of `to_map`.
      shape: shape of the feature maps.
      config: configuration of the network.
    """
    features, context = apply(blocks.embedding(shape), shape, weights.embedding, {}, [x])
    routing, experts = _routed_experts(weights, features, shape, config)

    def mixed(
        weights: GroupWeights, experts: dict[str, Array], x: FeatureLanes, features: FeatureLanes, context: FeatureLanes
    ) -> FeatureLanes:
        context += _summary(weights.context, context, shape, config)
        return apply(blocks.mixing(), shape, weights.mixing, experts, [x, features, context])[0]

    # For the gradient, the context is kept. Its sum with the summary is not: the backward pass recomputes it.
    return jax.checkpoint(mixed, prevent_cse=False)(weights, experts, x, features, context), routing


def to_map(x: Float[Array, "n h w c"], shape: MapShape) -> FeatureLanes:
    """Returns feature maps with channels in sublanes and pixels in lanes, both padded with zeros.

    Args:
      x: feature maps (N, H, W, C).
      shape: their shape.
    """
    flat = x.reshape(x.shape[0], shape.pixels, shape.channels).transpose(0, 2, 1)
    return jnp.pad(flat, ((0, 0), (0, shape.rows - shape.channels), (0, shape.lanes - shape.pixels)))


def from_map(maps: FeatureLanes, shape: MapShape) -> Float[Array, "n h w c"]:
    """Returns feature maps (N, H, W, C); this inverts `to_map`.

    Args:
      maps: feature maps in the layout of `to_map`.
      shape: their shape.
    """
    flat = maps[:, : shape.channels, : shape.pixels].transpose(0, 2, 1)
    return flat.reshape(-1, shape.height, shape.width, shape.channels)


# The router and its experts.


def _routed_experts(
    weights: GroupWeights, features: FeatureLanes, shape: MapShape, config: SeemoReConfig
) -> tuple[Routing, dict[str, Array]]:
    """Returns the routing, and the chosen experts of each image, concatenated into one expert of rank Σr."""
    pooled = jnp.sum(features, axis=2, dtype=jnp.float32)[:, : shape.channels] / shape.pixels
    probabilities = jax.nn.softmax(jnp.matmul(pooled, weights.router, precision=config.precision), axis=-1)
    top, chosen = jax.lax.top_k(probabilities, config.topk)
    # (N, K, E): a sum is faster here than a gather.
    picked = jax.nn.one_hot(chosen, config.num_experts, dtype=jnp.float32)

    def gather(name: str, by: Array) -> Array:
        return jnp.einsum("nke,erc->nkrc", by, weights.experts[name], precision="highest")

    def concatenated(name: str) -> Array:
        gathered = gather(name, picked)
        return gathered.reshape(gathered.shape[0], -1, gathered.shape[3])

    weighted = picked * top[..., None]
    experts = {
        name: concatenated(name)
        for name in ("from_features", "from_features_bias", "from_context", "from_context_bias")
    }
    up = gather("up", weighted)  # (N, K, R, C)
    experts["up"] = up.reshape(up.shape[0], -1, up.shape[3]).transpose(0, 2, 1)
    experts["up_bias"] = gather("up_bias", weighted).sum(axis=1)
    return Routing(chosen, probabilities), experts


# The context's summary.


def _summary(weights: BlockWeights, context: FeatureLanes, shape: MapShape, config: SeemoReConfig) -> FeatureLanes:
    """Returns the summary that `calibrate` adds to the context."""
    if config.recursive and shape.pixels <= _DENSE_PIXELS:
        return _summary_by_products(weights, context, shape, config)
    return _summary_by_convolutions(weights, context, shape, config)


def _summary_by_products(
    weights: BlockWeights, context: FeatureLanes, shape: MapShape, config: SeemoReConfig
) -> FeatureLanes:
    """Computes the reductions, the convolution and the resize as products with matrices that act on the pixels."""
    dtype, channels = context.dtype, shape.channels
    height, width = shape.height, shape.width
    summary = context[:, :channels, : shape.pixels]
    for _ in range(config.recursive):
        pattern, pool = _pattern_of_4x4(height, width), _pool_of_4x4(height, width)
        taps = jnp.matmul(weights["aggregate"], pattern, precision="highest").astype(dtype)
        pooled = jnp.matmul(summary * taps, pool.astype(dtype), precision=config.precision)
        summary = gelu(pooled + weights["aggregate_bias"].astype(dtype))
        height, width = height // 4, width // 4
    convolved = weights["depthwise_bias"].astype(dtype)
    for tap, shift in enumerate(_shifts_of_3x3(height, width)):
        moved = jnp.matmul(summary, shift.astype(dtype), precision=config.precision)
        convolved = convolved + moved * weights["depthwise"][:, tap : tap + 1].astype(dtype)
    mixed = jnp.einsum("cd,ncp->ndp", weights["pointwise"].astype(dtype), convolved, precision=config.precision)
    mixed = mixed + weights["pointwise_bias"].astype(dtype)
    resize = np.kron(_resize_matrix(height, shape.height), _resize_matrix(width, shape.width))
    resized = jnp.matmul(mixed, jnp.asarray(resize, dtype), precision=config.precision)
    return jnp.pad(resized, ((0, 0), (0, shape.rows - channels), (0, shape.lanes - shape.pixels)))


def _pattern_of_4x4(height: int, width: int) -> Float[Array, "16 p"]:
    """Returns a matrix with one row for each of 4×4 taps: 1 at the pixels that the tap multiplies."""
    rows, columns = np.divmod(np.arange(height * width), width)
    return jnp.asarray((rows % 4 * 4 + columns % 4) == np.arange(16)[:, None], jnp.float32)


def _pool_of_4x4(height: int, width: int) -> Float[Array, "p q"]:
    """Returns the matrix that sums blocks of 4×4 pixels; it leaves out the pixels of incomplete blocks."""
    rows = np.arange(height)[:, None] // 4 == np.arange(height // 4)
    columns = np.arange(width)[:, None] // 4 == np.arange(width // 4)
    return jnp.asarray(np.kron(rows, columns), jnp.bfloat16)


def _shifts_of_3x3(height: int, width: int) -> list[Float[Array, "p p"]]:
    """Returns one matrix for each of 3×3 taps, which moves the pixel at the offset of the tap to the centre."""
    offsets = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return [jnp.asarray(np.kron(np.eye(height, k=-i), np.eye(width, k=-j)), jnp.float32) for i, j in offsets]


def _resize_matrix(size: int, target: int) -> np.ndarray:
    """Returns the matrix of `resize_bilinear` along one axis, from `size` to `target` values."""
    positions = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(positions - np.arange(size)[:, None]))


def _summary_by_convolutions(
    weights: BlockWeights, context: FeatureLanes, shape: MapShape, config: SeemoReConfig
) -> FeatureLanes:
    """Computes the summary like the plain implementation, for large images."""
    dtype, channels = context.dtype, shape.channels

    def depthwise(x: Array, name: str, size: int, stride: int, padding: str) -> Array:
        kernel = weights[name].T.reshape(size, size, 1, channels).astype(dtype)
        convolved = depthwise_conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
            precision=config.precision,
        )
        return convolved + weights[f"{name}_bias"][:, 0].astype(dtype)

    summary = from_map(context, shape)
    for _ in range(config.recursive):
        summary = gelu(depthwise(summary, "aggregate", 4, 4, "VALID"))
    summary = depthwise(summary, "depthwise", 3, 1, "SAME")
    mixed = jnp.matmul(summary, weights["pointwise"].astype(dtype), precision=config.precision)
    mixed = mixed + weights["pointwise_bias"][:, 0].astype(dtype)
    return to_map(resize_bilinear(mixed, shape.height, shape.width), shape)
