"""Parameters of the network in the form that the operations of GPUs take (`gpu_operations`).

Each residual group has its own arrays, in float32. The matrices are there a second time, arranged for the kernels:
those of all groups in one array, which a program makes by a few launches instead of some for each group.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from seemore_jax.network.implementations.cpu_weights import (
    affine_of,
    features_weights,
    striped_weights,
    taps_of,
    weights_of,
)
from seemore_jax.network.implementations.simt.variants import packed
from seemore_jax.network.seemore import GatedFeedForward, MixtureOfRankExpertsBlock, ResidualGroup

Arrays = tuple[Array, ...]

# Positions of weights in the tuples of `GroupWeights`.
_CONVOLUTION, _CONTEXT_EXPAND, _CONTEXT_EXPAND_BIAS = 2, 4, 5  # embedding
_FROM_FEATURES, _FROM_FEATURES_BIAS, _FROM_CONTEXT, _FROM_CONTEXT_BIAS, _UP, _UP_BIAS, _PROJECT = range(7)  # experts
_EXPAND, _FEED_FORWARD_PROJECT, _ENHANCEMENT_PROJECT = 2, 6, 8  # feed-forward layers and enhancement


class GroupWeights(NamedTuple):
    """Arrays of a residual group for its operations, in the order of their arguments."""

    embedding: Arrays
    routing: Arrays
    experts: Arrays
    feed_forward_1: Arrays
    enhancement: Arrays
    feed_forward_2: Arrays


class ArrangedWeights(NamedTuple):
    """Arrays of all residual groups for the kernels of an operation; those of a group are at its index.

    `feed_forward` has two layers for each group.
    """

    embedding: Arrays
    experts: Arrays
    feed_forward: Arrays
    enhancement: Arrays


def weights_of_group(group: ResidualGroup) -> GroupWeights:
    """Returns the weights of a residual group.

    Args:
      group: the residual group.
    """
    local, spatial = group.rank_modulating, group.spatial_modulating
    block, enhancement = local.mixture_block, spatial.enhancement
    kernel, bias = weights_of(block.embed)
    expand, expand_bias, *striped = features_weights(block)
    convolution = kernel.reshape(9, *kernel.shape[2:]), bias
    query, query_bias = weights_of(enhancement.to_query_value)
    return GroupWeights(
        embedding=(
            *(*affine_of(local.norm_1), *convolution, _halves(expand), expand_bias),
            *(*striped, *taps_of(block.aggregate)),
        ),
        routing=(
            *(block.mixture.router.linear.kernel[...].astype(jnp.float32), *taps_of(block.aggregate)),
            *(*taps_of(block.context_depthwise), *weights_of(block.context_pointwise)),
        ),
        experts=_experts(block),
        feed_forward_1=_feed_forward(local.norm_2, local.feed_forward),
        enhancement=(
            *(*affine_of(spatial.norm_1), _halves(query), query_bias),
            *(*striped_weights(enhancement.striped), *weights_of(enhancement.project)),
        ),
        feed_forward_2=_feed_forward(spatial.norm_2, spatial.feed_forward),
    )


def arranged(groups: Sequence[GroupWeights], compute_dtype: str) -> ArrangedWeights:
    """Returns the weights of all residual groups as the kernels take them.

    Args:
      groups: weights of each residual group.
      compute_dtype: type of the matrices, "float32" or "bfloat16".
    """

    def stacked(of: Callable[[GroupWeights], Array]) -> Array:
        return jnp.stack([of(group) for group in groups])

    def of_experts(position: int) -> Array:
        """Stacks an array of each expert over the groups first: XLA fuses no more than some 60 arrays at once."""
        count = len(groups[0].experts[position])
        each = [jnp.stack([group.experts[position][expert] for group in groups]) for expert in range(count)]
        return jnp.stack(each, axis=1)

    layers = [layer for group in groups for layer in (group.feed_forward_1, group.feed_forward_2)]
    enhancements = [group.enhancement for group in groups]
    project = stacked(lambda group: group.experts[_PROJECT])
    # The projection after the experts is linear. The last map of each expert includes it.
    up = jnp.sum(of_experts(_UP)[..., None] * project[:, None, None], axis=-2)
    up_bias = jnp.sum(of_experts(_UP_BIAS)[..., None] * project[:, None], axis=-2)
    return ArrangedWeights(
        embedding=(
            packed(
                stacked(
                    lambda group: jnp.concatenate([group.embedding[_CONVOLUTION], group.embedding[_CONTEXT_EXPAND]])
                ),
                compute_dtype,
            ),
            stacked(lambda group: group.embedding[_CONTEXT_EXPAND_BIAS]),
        ),
        experts=(
            packed(jnp.stack([of_experts(_FROM_FEATURES), of_experts(_FROM_CONTEXT)], axis=2), compute_dtype),
            jnp.stack([of_experts(_FROM_FEATURES_BIAS), of_experts(_FROM_CONTEXT_BIAS)], axis=2),
            packed(up, compute_dtype),
            up_bias,
            packed(project, compute_dtype),
        ),
        feed_forward=(packed(_expand_and_project(layers, _FEED_FORWARD_PROJECT), compute_dtype),),
        enhancement=(packed(_expand_and_project(enhancements, _ENHANCEMENT_PROJECT), compute_dtype),),
    )


def _expand_and_project(layers: Sequence[Arrays], project: int) -> Float[Array, "layers 3 c c"]:
    """Stacks the three matrices of each layer: the two that expand, and the one at the position `project`."""
    return jnp.stack([jnp.concatenate([layer[_EXPAND], layer[project][None]]) for layer in layers])


def _experts(block: MixtureOfRankExpertsBlock) -> Arrays:
    """Returns the weights of all experts, padded to the largest rank, and the kernel and bias of the projection."""
    mixture = block.mixture
    experts = [expert.padded(max(mixture.config.ranks)) for expert in mixture.experts]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays).astype(jnp.float32), *experts)
    return *stacked, *weights_of(block.project)


def _feed_forward(norm: nnx.LayerNorm, layer: GatedFeedForward) -> Arrays:
    expand, expand_bias = weights_of(layer.expand)
    return *affine_of(norm), _halves(expand), expand_bias, *taps_of(layer.gate), *weights_of(layer.project)


def _halves(expand: Float[Array, "c d"]) -> Float[Array, "2 c c"]:
    """Splits a matrix from C to 2C channels into two."""
    return jnp.stack(jnp.split(expand, 2, axis=1))
