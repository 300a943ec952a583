"""Parameters of the network in the form that the CPU's kernels take: float32 matrices, filters and biases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from seemore_jax.network.layers import bias_of
from seemore_jax.network.routing import Routing
from seemore_jax.network.seemore import MixtureOfRankExpertsBlock, StripedConvolution


def weights_of(layer: nnx.Linear | nnx.Conv) -> tuple[Array, Array]:
    """Returns the kernel and the bias of a layer.

    Args:
      layer: a linear map or a convolution, with bias.
    """
    return layer.kernel[...].astype(jnp.float32), bias_of(layer).astype(jnp.float32)


def taps_of(layer: nnx.Conv) -> tuple[Float[Array, "taps c"], Float[Array, " c"]]:
    """Returns the filter and the bias of a depthwise convolution.

    Args:
      layer: a depthwise convolution with a kernel (KH, KW, 1, C).

    Returns:
      The filter (KH·KW, C) and the bias (C,).
    """
    taps, bias = weights_of(layer)
    return taps.reshape(-1, taps.shape[-1]), bias


def striped_weights(striped: StripedConvolution) -> tuple[Array, ...]:
    """Returns filter and bias along rows, then filter and bias along columns.

    Args:
      striped: a striped convolution.
    """
    return *taps_of(striped.row), *taps_of(striped.column)


def affine_of(norm: nnx.LayerNorm) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Returns the scale and the offset of a LayerNorm.

    Args:
      norm: a LayerNorm.
    """
    assert norm.scale is not None
    return norm.scale[...].astype(jnp.float32), bias_of(norm).astype(jnp.float32)


def linear_after_norm(norm: nnx.LayerNorm, linear: nnx.Linear) -> tuple[Array, Array]:
    """Returns the kernel and the bias of a linear map, which include the affine map of the LayerNorm before it.

    The kernels therefore compute only the normalization, (x − mean) / σ.

    Args:
      norm: LayerNorm before the linear map.
      linear: linear map, (C, D).
    """
    kernel, bias = weights_of(linear)
    scale, offset = affine_of(norm)
    return scale[:, None] * kernel, bias + jnp.matmul(offset, kernel, precision="highest")


def features_weights(block: MixtureOfRankExpertsBlock) -> tuple[Array, ...]:
    """Returns the weights of the operation `features_and_context`.

    The channel shuffle is part of the first linear map.

    Args:
      block: a mixture of rank experts.
    """
    expand, expand_bias = weights_of(block.expand)
    if block.use_shuffle:
        order = np.arange(expand.shape[1]).reshape(2, -1).T.ravel()
        expand, expand_bias = expand[:, order], expand_bias[order]
    return expand, expand_bias, *striped_weights(block.local)


def expert_weights(block: MixtureOfRankExpertsBlock, routing: Routing) -> tuple[Array, ...]:
    """Returns the weights of the operation `low_rank_experts`: those of the chosen experts of each image.

    The k experts of an image are concatenated into one expert of rank k·r. project(features + up(low_rank)) becomes one
    linear map of [features, low_rank].

    Args:
      block: a mixture of rank experts.
      routing: routing of its layer.

    Returns:
      Kernels and biases for each image: from features (N, C, k·r) and (N, k·r), from context (N, C, k·r) and (N, k·r),
      output (N, C + k·r, C) and (N, C).
    """
    count = routing.experts.shape[0]
    weights = jnp.take_along_axis(routing.probabilities, routing.experts, axis=-1)
    expert = jax.tree.map(lambda array: array.astype(jnp.float32), block.mixture.gathered(routing.experts))
    up = (expert.up * weights[..., None, None]).reshape(count, -1, expert.up.shape[-1])
    up_bias = jnp.einsum("nkc,nk->nc", expert.up_bias, weights)
    project, project_bias = weights_of(block.project)
    product = functools.partial(jnp.matmul, precision="highest")
    return (
        _concatenated(expert.from_features),
        expert.from_features_bias.reshape(count, -1),
        _concatenated(expert.from_context),
        expert.from_context_bias.reshape(count, -1),
        jnp.concatenate([jnp.broadcast_to(project, (count, *project.shape)), product(up, project)], axis=1),
        product(up_bias, project) + project_bias,
    )


def _concatenated(kernels: Float[Array, "n k c r"]) -> Float[Array, "n c kr"]:
    """Concatenates the kernels of k experts along the rank."""
    n, k, c, r = kernels.shape
    return kernels.transpose(0, 2, 1, 3).reshape(n, c, k * r)
