"""The network on a CPU: its convolutions and experts by the kernels in `native`, the little that remains by XLA.

The kernels take feature maps as (N, H, C, P): each image row is C lines of P floats, P being the width rounded up to
whole vectors. Here and in the kernels, `width` is the number of columns that count.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import native
from seemore_jax.network.implementations.plain import stack_routings
from seemore_jax.network.layers import gelu
from seemore_jax.network.routing import Routing

if TYPE_CHECKING:
    from seemore_jax.network.seemore import (
        GatedFeedForward,
        MixtureOfRankExpertsBlock,
        RankModulatingExpert,
        ResidualGroup,
        SpatialModulatingExpert,
        StripedConvolution,
    )

_BLOCK = 16  # kBlock of native/rows.h
_MARGIN = 16  # kMargin: the longest filter reaches so far


def supports(config: SeemoReConfig) -> bool:
    """Whether the kernels can compute this network here: in float32, and with filters that they have room for."""
    return config.compute_dtype == "float32" and config.global_kernel_size <= 2 * _MARGIN + 1 and native.available()


def apply_groups(
    groups: Sequence["ResidualGroup"], x: Float[Array, "n h w c"], config: SeemoReConfig
) -> tuple[Float[Array, "n h w c"], Routing]:
    """As `plain.apply_groups`."""
    width = x.shape[2]
    routings = []
    x = to_lines(x)
    for group in groups:
        apply = functools.partial(_residual_group, width=width)
        x, routing = (jax.checkpoint(apply) if config.rematerialize else apply)(group, x)
        routings.append(routing)
    return from_lines(x, width), stack_routings(routings)


def to_lines(x: Float[Array, "n h w c"]) -> Float[Array, "n h c p"]:
    """The kernels' layout."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % _BLOCK), (0, 0))).swapaxes(2, 3)


def from_lines(x: Float[Array, "n h c p"], width: int) -> Float[Array, "n h w c"]:
    """The inverse of `to_lines`."""
    return x[..., :width].swapaxes(2, 3)


def _residual_group(group: "ResidualGroup", x: Array, *, width: int) -> tuple[Array, Routing]:
    x, routing = _rank_modulating_expert(group.rank_modulating, x, width)
    return _spatial_modulating_expert(group.spatial_modulating, x, width), routing


def _rank_modulating_expert(expert: "RankModulatingExpert", x: Array, width: int) -> tuple[Array, Routing]:
    x, routing = _mixture_block(expert.norm_1, expert.mixture_block, x, width)
    return _gated_feed_forward(expert.norm_2, expert.feed_forward, x, width), routing


def _spatial_modulating_expert(expert: "SpatialModulatingExpert", x: Array, width: int) -> Array:
    enhancement = expert.enhancement
    expand, expand_bias = _after_norm(expert.norm_1, enhancement.to_query_value)
    striped = _striped_weights(enhancement.striped)
    x = operation("spatial_enhancement", width)(x, expand, expand_bias, *striped, *_weights(enhancement.project))
    return _gated_feed_forward(expert.norm_2, expert.feed_forward, x, width)


def _gated_feed_forward(norm: nnx.LayerNorm, ffn: "GatedFeedForward", x: Array, width: int) -> Array:
    expand, expand_bias = _after_norm(norm, ffn.expand)
    return operation("gated_feed_forward", width)(x, expand, expand_bias, *_taps(ffn.gate), *_weights(ffn.project))


def _mixture_block(
    norm: nnx.LayerNorm, block: "MixtureOfRankExpertsBlock", x: Array, width: int
) -> tuple[Array, Routing]:
    """x + MoRE(LN(x))."""
    height = x.shape[1]
    embedded = convolution(x, block.embed, width, norm=norm)
    expand, expand_bias = _weights(block.expand)
    if block.use_shuffle:  # the shuffle of the outputs, done to the weights that make them
        order = np.arange(expand.shape[1]).reshape(2, -1).T.ravel()
        expand, expand_bias = expand[:, order], expand_bias[order]
    features, context, total = operation("features_and_context", width)(
        embedded, expand, expand_bias, *_striped_weights(block.local)
    )
    summary = _summary(block, context, width)

    mixture = block.mixture
    probabilities = mixture.router.choose(total / (height * width))
    weights, chosen = lax.top_k(probabilities, mixture.config.topk)
    expert = mixture.gathered(chosen)
    # The k experts of an image side by side are one of k times the rank; project(features + up(low)) is one map.
    from_features, from_context = _side_by_side(expert.from_features), _side_by_side(expert.from_context)
    up = (expert.up * weights[..., None, None]).reshape(x.shape[0], -1, x.shape[2])
    up_bias = jnp.einsum("nkc,nk->nc", expert.up_bias, weights)
    project, project_bias = _weights(block.project)
    product = functools.partial(jnp.matmul, precision="highest")
    out = jnp.concatenate([jnp.broadcast_to(project, (x.shape[0], *project.shape)), product(up, project)], axis=1)
    x = operation("low_rank_experts", width)(
        x,
        features,
        context,
        summary,
        from_features,
        expert.from_features_bias.reshape(x.shape[0], -1),
        from_context,
        expert.from_context_bias.reshape(x.shape[0], -1),
        out,
        product(up_bias, project) + project_bias,
    )
    return x, Routing(chosen, probabilities)


def _side_by_side(kernels: Float[Array, "n k c r"]) -> Float[Array, "n c kr"]:
    n, k, c, r = kernels.shape
    return kernels.transpose(0, 2, 1, 3).reshape(n, c, k * r)


def _summary(block: "MixtureOfRankExpertsBlock", context: Array, width: int) -> Float[Array, "n h2 c p"]:
    """The context's summary, resized along the rows' direction; the kernel of the experts does it along the columns'.

    Reduced by 4 `recursive` times: the first time by a kernel, the others on so little that XLA may do it.
    """
    if block.recursive:
        reduced = gelu(operation("reduction", width)(context, *_taps(block.aggregate))).swapaxes(2, 3)
    else:
        reduced = from_lines(context, width)
    for _ in range(1, block.recursive):
        reduced = gelu(block.aggregate(reduced))
    summary = block.context_pointwise(block.context_depthwise(reduced))
    resized = jax.image.resize(
        summary, (*summary.shape[:2], width, summary.shape[3]), "bilinear", antialias=False, precision="highest"
    )
    return to_lines(resized)


def convolution(x: Array, layer: nnx.Conv, width: int, norm: nnx.LayerNorm | None = None) -> Float[Array, "n h o p"]:
    """A dense 3×3 convolution of (N, H, C, P) features, or of their LayerNorm."""
    scale, offset = _affine(norm) if norm else (jnp.zeros(0), jnp.zeros(0))
    taps, bias = _weights(layer)
    return operation("convolution", width)(x, scale, offset, taps.reshape(-1, taps.shape[-1]), bias)


def _weights(layer: nnx.Linear | nnx.Conv) -> tuple[Array, Array]:
    assert layer.bias is not None
    return layer.kernel[...], layer.bias[...]


def _affine(norm: nnx.LayerNorm) -> tuple[Array, Array]:
    assert norm.scale is not None
    assert norm.bias is not None
    return norm.scale[...], norm.bias[...]


def _taps(layer: nnx.Conv) -> tuple[Float[Array, "taps c"], Float[Array, " c"]]:
    taps, bias = _weights(layer)
    return taps.reshape(-1, taps.shape[-1]), bias


def _striped_weights(striped: "StripedConvolution") -> tuple[Array, ...]:
    return *_taps(striped.row), *_taps(striped.column)


def _after_norm(norm: nnx.LayerNorm, linear: nnx.Linear) -> tuple[Array, Array]:
    """The linear map with the norm's scale and offset in it: the kernels only normalize."""
    kernel, bias = _weights(linear)
    scale, offset = _affine(norm)
    return scale[:, None] * kernel, bias + jnp.matmul(offset, kernel, precision="highest")


@functools.cache
def operation(name: str, width: int) -> Callable[..., Any]:
    """One of the kernels as a differentiable function of its arrays."""

    @jax.custom_vjp
    def call(*arrays: Array) -> Any:
        return jax.ffi.ffi_call(f"seemore_{name}", _outputs(name, arrays, width))(*arrays, width=np.int64(width))

    def forward(*arrays: Array) -> tuple[Any, tuple[Array, ...]]:
        return call(*arrays), arrays

    def backward(arrays: tuple[Array, ...], gradients: Any) -> tuple[Array, ...]:
        gradients = jax.tree.leaves(gradients)
        if name == "low_rank_experts":
            return _low_rank_experts_backward(arrays, gradients[0], width)
        return _backward(name, arrays, gradients, arrays, width)

    call.defvjp(forward, backward)
    return call


def _backward(
    name: str, arrays: Sequence[Array], gradients: Sequence[Array], of: Sequence[Array], width: int
) -> tuple[Array, ...]:
    """The gradients towards the arrays in `of`."""
    outputs = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in of)
    return tuple(jax.ffi.ffi_call(f"seemore_{name}_backward", outputs)(*arrays, *gradients, width=np.int64(width)))


def _low_rank_experts_backward(arrays: tuple[Array, ...], gradient: Array, width: int) -> tuple[Array, ...]:
    """The input is added to the output, and the summary, interpolated between its rows, to the context."""
    x, _, context, summary, *_ = arrays
    others = _backward("low_rank_experts", arrays, [gradient], [arrays[1], context, *arrays[4:]], width)
    resize = functools.partial(_resize_rows, height=x.shape[1])
    (summary_gradient,) = jax.linear_transpose(resize, summary)(others[1])
    return gradient, *others[:2], summary_gradient, *others[2:]


def _resize_rows(summary: Float[Array, "n h2 c p"], *, height: int) -> Float[Array, "n h c p"]:
    n, _, channels, pitch = summary.shape
    return jax.image.resize(summary, (n, height, channels, pitch), "bilinear", antialias=False, precision="highest")


def _outputs(name: str, arrays: Sequence[Array], width: int) -> Any:
    """Shapes of a kernel's results."""
    x = arrays[0]
    n, height, channels, pitch = x.shape
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    if name == "convolution":
        return shape((n, height, arrays[-1].shape[0], pitch))
    if name == "features_and_context":
        return shape(x.shape), shape(x.shape), shape((n, channels))
    if name == "reduction":
        return shape((n, height // 4, channels, width // 4))
    return shape(x.shape)
