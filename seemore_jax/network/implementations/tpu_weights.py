"""Parameters of the network in the form that TPU kernels take: matrices and columns.

Channels are padded with zeros to a multiple of 8 (`MapShape.rows`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations.pallas_blocks import STEPS, row_stripe_groups, stripe_centres
from seemore_jax.network.implementations.pallas_stages import SUBLANES, MapShape, round_up
from seemore_jax.network.layers import bias_of
from seemore_jax.network.seemore import GatedFeedForward, MixtureOfRankExpertsBlock, ResidualGroup, SeemoReNetwork


class GroupWeights(NamedTuple):
    """Parameters of a residual group in the form that the blocks take.

    Attributes:
      embedding: weights of `pallas_blocks.embedding`.
      mixing: weights of `pallas_blocks.mixing` without those of the experts.
      experts: weights of all experts, stacked.
      context: kernels and biases of the summary of the context.
      router: kernel of the router, (C, num_experts).
      enhancement: weights of `pallas_blocks.enhancement`.
      feed_forwards: weights of `pallas_blocks.feed_forward` in the RME and in the SME.
    """

    embedding: dict[str, Array]
    mixing: dict[str, Array]
    experts: dict[str, Array]
    context: dict[str, Array]
    router: Array
    enhancement: dict[str, Array]
    feed_forwards: tuple[dict[str, Array], dict[str, Array]]


def group_weights(group: ResidualGroup, shape: MapShape, config: SeemoReConfig) -> GroupWeights:
    """Returns the parameters of a residual group in the form that the blocks take.

    JAX differentiates this function, so that gradients have the form of the group's parameters.

    Args:
      group: residual group.
      shape: shape of the feature maps.
      config: configuration of the network.
    """
    local, spatial = group.rank_modulating, group.spatial_modulating
    mixture = local.mixture_block
    return GroupWeights(
        embedding=norm_weights(shape, local.norm_1) | _embedding_weights(mixture, shape),
        mixing=linear_weights(shape, project=mixture.project),
        experts=_expert_weights(mixture, shape, config),
        context=_context_weights(mixture),
        router=mixture.mixture.router.linear.kernel[...],
        enhancement={
            **norm_weights(shape, spatial.norm_1),
            **_expand_weights(shape, spatial.enhancement.to_query_value),
            **linear_weights(shape, project=spatial.enhancement.project),
            "row": row_stripe_taps(shape, spatial.enhancement.striped.row.kernel[...]),
            "row_bias": column(shape, bias_of(spatial.enhancement.striped.row)),
            "column": column_stripe_taps(shape, spatial.enhancement.striped.column.kernel[...]),
            "column_bias": column(shape, bias_of(spatial.enhancement.striped.column)),
        },
        feed_forwards=(
            norm_weights(shape, local.norm_2) | _feed_forward_weights(local.feed_forward, shape),
            norm_weights(shape, spatial.norm_2) | _feed_forward_weights(spatial.feed_forward, shape),
        ),
    )


def reconstruction_weights(model: SeemoReNetwork, shape: MapShape) -> dict[str, Array]:
    """Returns the weights of `pallas_blocks.reconstruction`.

    Args:
      model: network.
      shape: shape of the feature maps.
    """
    values = bias_of(model.upsampler)
    weights = {
        **norm_weights(shape, model.norm),
        "deep": dense_taps(model.deep_features.kernel[...]),
        "deep_bias": column(shape, bias_of(model.deep_features)),
        "values": dense_taps(model.upsampler.kernel[...]),
        "values_bias": jnp.pad(values, (0, -len(values) % SUBLANES))[:, None],
    }
    return {name: array.astype(jnp.float32) for name, array in weights.items()}


def _expand_weights(shape: MapShape, layer: nnx.Linear, order: np.ndarray | None = None) -> dict[str, Array]:
    expand, bias = halves(shape, layer, order)
    return {"expand": expand, "expand_bias": bias}


def _feed_forward_weights(layer: GatedFeedForward, shape: MapShape) -> dict[str, Array]:
    return {
        **_expand_weights(shape, layer.expand),
        **linear_weights(shape, project=layer.project),
        "gate": depthwise_taps(shape, layer.gate.kernel[...]),
        "gate_bias": column(shape, bias_of(layer.gate)),
    }


def _embedding_weights(layer: MixtureOfRankExpertsBlock, shape: MapShape) -> dict[str, Array]:
    # The channel shuffle is part of the matrix before it.
    order = np.arange(2 * shape.channels).reshape(2, -1).T.ravel() if layer.use_shuffle else None
    return {
        "embed": dense_taps(layer.embed.kernel[...]),
        "embed_bias": column(shape, bias_of(layer.embed)),
        **_expand_weights(shape, layer.expand, order),
        **local_weights(shape, layer.local.row, layer.local.column),
    }


def _expert_weights(layer: MixtureOfRankExpertsBlock, shape: MapShape, config: SeemoReConfig) -> dict[str, Array]:
    """Returns the weights of all experts: kernels (E, R, C), biases (E, R, 1) or (E, C, 1).

    All ranks are padded with zeros to the same multiple of 8.
    """
    rank = round_up(max(config.ranks), SUBLANES)
    padded: list[Any] = [expert.padded(rank) for expert in layer.mixture.experts]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *padded)
    extra = (0, shape.rows - shape.channels)
    return {
        "from_features": jnp.pad(stack.from_features, ((0, 0), extra, (0, 0))).transpose(0, 2, 1),
        "from_features_bias": stack.from_features_bias[..., None],
        "from_context": jnp.pad(stack.from_context, ((0, 0), extra, (0, 0))).transpose(0, 2, 1),
        "from_context_bias": stack.from_context_bias[..., None],
        "up": jnp.pad(stack.up, ((0, 0), (0, 0), extra)),
        "up_bias": jnp.pad(stack.up_bias, ((0, 0), extra))[..., None],
    }


def _context_weights(layer: MixtureOfRankExpertsBlock) -> dict[str, Array]:
    channels = layer.aggregate.kernel[...].shape[-1]
    return {
        "aggregate": layer.aggregate.kernel[...].reshape(16, channels).T,
        "aggregate_bias": bias_of(layer.aggregate)[:, None],
        "depthwise": layer.context_depthwise.kernel[...].reshape(9, channels).T,
        "depthwise_bias": bias_of(layer.context_depthwise)[:, None],
        "pointwise": layer.context_pointwise.kernel[...],
        "pointwise_bias": bias_of(layer.context_pointwise)[:, None],
    }


# Matrices and columns.


def column(shape: MapShape, values: Float[Array, " c"]) -> Float[Array, "rows 1"]:
    """Returns one value for each channel as a column.

    Args:
      shape: shape of the feature maps.
      values: one value for each channel.
    """
    return jnp.pad(values, (0, shape.rows - shape.channels))[:, None]


def matrix(shape: MapShape, kernel: Float[Array, "c d"]) -> Float[Array, "rows rows"]:
    """Returns the kernel of a 1×1 convolution as a matrix that multiplies feature maps from the left.

    Args:
      shape: shape of the feature maps.
      kernel: kernel (in, out).
    """
    return jnp.pad(kernel, ((0, shape.rows - shape.channels),) * 2).T


def halves(
    shape: MapShape, layer: nnx.Linear, order: np.ndarray | None = None
) -> tuple[Float[Array, "rows2 rows"], Float[Array, "rows2 1"]]:
    """Returns the matrix and the bias of a 1×1 convolution to 2C channels; each half of the channels is padded.

    Args:
      shape: shape of the feature maps.
      layer: the convolution.
      order: indices by which the 2C output channels are reordered before; None keeps their order.
    """
    channels = shape.channels
    order = np.arange(2 * channels) if order is None else order
    kernel, bias = layer.kernel[...][:, order], bias_of(layer)[order]
    both = (slice(0, channels), slice(channels, None))
    return (
        jnp.concatenate([matrix(shape, kernel[:, half]) for half in both]),
        jnp.concatenate([column(shape, bias[half]) for half in both]),
    )


def dense_taps(kernel: Float[Array, "kh kw c d"]) -> Float[Array, "m k"]:
    """Returns the matrix of a dense convolution.

    Args:
      kernel: kernel (KH, KW, in, out).

    Returns:
      A matrix (KH·out, KW·in), with both numbers of channels padded: one part for each row offset, and one column block
      for each column offset.
    """
    extra = [(0, -channels % SUBLANES) for channels in kernel.shape[2:]]
    padded = jnp.pad(kernel, ((0, 0), (0, 0), *extra)).transpose(0, 3, 1, 2)
    return padded.reshape(padded.shape[0] * padded.shape[1], -1)


def depthwise_taps(shape: MapShape, kernel: Float[Array, "kh kw 1 c"]) -> Float[Array, "m k"]:
    """Returns the matrix of a depthwise convolution, which has one diagonal matrix for each tap.

    Args:
      shape: shape of the feature maps.
      kernel: kernel (KH, KW, 1, C).

    Returns:
      A matrix (KH·rows, KW·rows), as for `dense_taps`.
    """
    padded = jnp.pad(kernel[:, :, 0], ((0, 0), (0, 0), (0, shape.rows - shape.channels)))
    diagonals = (
        padded.transpose(0, 2, 1)[..., None] * jnp.eye(shape.rows, dtype=jnp.float32)[:, None, :]
    )  # (kh, c, kw, c)
    return diagonals.reshape(kernel.shape[0] * shape.rows, kernel.shape[1] * shape.rows)


def row_stripe_taps(shape: MapShape, kernel: Float[Array, "1 k 1 c"]) -> Float[Array, "m k5"]:
    """Returns the matrix of a 1×k stripe with groups of three taps, as `row_stripe_groups` describes them.

    Args:
      shape: shape of the feature maps.
      kernel: kernel (1, k, 1, C).
    """
    size = kernel.shape[1]
    groups = np.array(row_stripe_groups(size))[:, None]
    steps = np.array(STEPS)
    away = np.where(groups < 0, steps <= 0, steps >= 0)
    tap = np.where(away, groups + steps + size // 2, -1)  # −1 and size are no taps
    chosen = (tap[..., None] == np.arange(size)).astype(np.float32)
    taps = jnp.einsum("gsk,kc->gsc", chosen, kernel[0, :, 0], precision="highest")
    return depthwise_taps(shape, taps[:, :, None])


def column_stripe_taps(shape: MapShape, kernel: Float[Array, "k 1 1 c"]) -> Float[Array, "m k3"]:
    """Returns the matrix of a k×1 stripe with groups of three taps, as `stripe_centres` describes them.

    Args:
      shape: shape of the feature maps.
      kernel: kernel (k, 1, 1, C).
    """
    size = kernel.shape[0]
    count = len(stripe_centres(size))
    taps = jnp.pad(kernel[:, 0, 0], ((0, 3 * count - size), (0, 0)))
    return depthwise_taps(shape, taps.reshape(count, 3, 1, -1))


def local_weights(shape: MapShape, row: nnx.Conv, col: nnx.Conv) -> dict[str, Array]:
    """Returns the weights of a 1×3 and a 3×1 stripe as one 3×3 depthwise convolution.

    The bias of the row filter passes through the column filter, which pads with zeros. Therefore it is added only where
    the taps of the column filter are inside the image (`inner_bias` of `_convolve`).

    Args:
      shape: shape of the feature maps.
      row: depthwise 1×3 convolution.
      col: depthwise 3×1 convolution.
    """
    vertical, horizontal = col.kernel[...], row.kernel[...]
    taps = depthwise_taps(shape, vertical * horizontal)
    inner = jnp.concatenate([column(shape, vertical[i, 0, 0] * bias_of(row)) for i in range(3)])
    masks = jnp.pad(inner, ((0, 0), (1, SUBLANES - 2)))  # the second mask has offset 0
    return {"local": jnp.concatenate([taps, masks], axis=1), "local_bias": column(shape, bias_of(col))}


def linear_weights(shape: MapShape, **layers: nnx.Linear) -> dict[str, Array]:
    """Returns the matrices and biases of 1×1 convolutions from C to C channels.

    Args:
      shape: shape of the feature maps.
      **layers: the convolutions by the names of their matrices.
    """
    weights = {}
    for name, layer in layers.items():
        weights[name] = matrix(shape, layer.kernel[...])
        weights[f"{name}_bias"] = column(shape, bias_of(layer))
    return weights


def norm_weights(shape: MapShape, norm: nnx.LayerNorm) -> dict[str, Array]:
    """Returns the scale and the bias of a LayerNorm.

    Args:
      shape: shape of the feature maps.
      norm: the LayerNorm.
    """
    assert norm.scale is not None
    return {"norm": column(shape, norm.scale[...]), "norm_bias": column(shape, bias_of(norm))}
