"""The network on a CPU: the kernels in `native` compute convolutions and experts, XLA computes the rest.

The kernels take feature maps as (N, H, C, P): each image row is C lines of P floats, where P is the width rounded up to
whole vectors. Their first argument, the region, says which rows and columns are valid.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import native, self_check
from seemore_jax.network.implementations.cpu_operations import KernelRegion, no_norm, operation
from seemore_jax.network.implementations.padded import mix_summary
from seemore_jax.network.layers import gelu
from seemore_jax.network.routing import Routing, stack_routings
from seemore_jax.network.seemore import (
    GatedFeedForward,
    MixtureOfRankExpertsBlock,
    ResidualGroup,
    SeemoReNetwork,
    StripedConvolution,
)
from seemore_jax.network.valid_region import ValidRegion, resize_axis

_BLOCK = 16  # kBlock of native/rows.h
_MARGIN = 16  # kMargin: the longest filter reaches so far
_LOCAL_REACH = 1  # rows on each side that the local features need
_AHEAD = 2  # rows that the operations after a group need: the next embedding and its features, or the reconstruction


def supports(config: SeemoReConfig) -> bool:
    """Whether the kernels can compute this network here: in float32, and with filters that they have room for."""
    return config.compute_dtype == "float32" and config.global_kernel_size <= 2 * _MARGIN + 1 and native.available()


def apply_network(
    model: SeemoReNetwork, lr: Float[Array, "n h w 3"], valid_region: ValidRegion | None = None
) -> tuple[Float[Array, "n sh sw 3"], Routing]:
    """See `plain.apply_network`."""
    where = image_layout(lr.shape[1:3], model.config, valid_region)
    shallow = x = extract(model, lr, where)
    # All groups are one function, so that it is traced once.
    traced_once = jax.jit(functools.partial(_residual_group, width=where.width, config=model.config))
    apply_group = jax.checkpoint(traced_once) if model.config.rematerialize else traced_once
    routings = []
    for group in model.groups:
        x, routing = apply_group(group, x, where.valid_region, where.region)
        routings.append(routing)
    return reconstruct(model, x, shallow, where), stack_routings(routings)


class ImageLayout(NamedTuple):
    """How an image lies in the kernels' arrays.

    Attributes:
      width: width of the arrays before they are padded to whole vectors, in pixels.
      valid_region: the part of the arrays that the image fills; None if it fills all of them.
      region: the same as the kernels take it, a `KernelRegion` as one array.
      config: the network's hyperparameters.
    """

    width: int
    valid_region: ValidRegion | None
    region: Int32[Array, "9"]
    config: SeemoReConfig

    def apply(self, name: str, *arrays: Array) -> tuple[Array, ...]:
        """Applies an operation of `cpu_operations` to the image, and returns its results."""
        return operation(name, _trusts_gradients(self.config))(self.region, *arrays)

    def rows(self, margin: int) -> "ImageLayout":
        """Returns a layout by which only the strip's own rows and `margin` rows on each side are computed."""
        if self.valid_region is None:
            return self
        begin, end = self.valid_region.begin - margin, self.valid_region.end + margin
        rows = jnp.stack([jnp.maximum(begin, 0), jnp.minimum(end, self.valid_region.height)])
        return self._replace(region=self.region.at[7:].set(rows))


def image_layout(shape: tuple[int, ...], config: SeemoReConfig, valid_region: ValidRegion | None) -> ImageLayout:
    """Returns the layout of an image in feature maps of that height and width."""
    height, width = shape
    known = valid_region or ValidRegion.of(height, width)
    summary_rows = known.image_height // 4**config.recursive
    rows = (known.first_row, known.image_height, summary_rows, known.begin, known.end, jnp.int32(0), known.height)
    return ImageLayout(width, valid_region, jnp.stack(KernelRegion(known.height, known.width, *rows)), config)


@functools.cache
def _trusts_gradients(config: SeemoReConfig) -> Callable[[], bool]:
    """Returns a function that says whether the backward kernels passed the self-check.

    It is called only where a gradient is taken, since it compiles these kernels.
    """
    return lambda: self_check.is_usable("cpu", apply_network, config, gradients=True)


def to_kernel_layout(x: Float[Array, "n h w c"]) -> Float[Array, "n h c p"]:
    """Moves the channels before the columns, and pads the columns to whole vectors."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % _BLOCK), (0, 0))).swapaxes(2, 3)


def from_kernel_layout(x: Float[Array, "n h c p"], width: int) -> Float[Array, "n h w c"]:
    """Inverts `to_kernel_layout`."""
    return x[..., :width].swapaxes(2, 3)


def extract(model: SeemoReNetwork, lr: Float[Array, "n h w 3"], layout: ImageLayout) -> Array:
    """See `padded.extract`."""
    return convolution(to_kernel_layout(model.center(lr)), model.shallow_features, layout.rows(_AHEAD))


def reconstruct(model: SeemoReNetwork, x: Array, shallow: Array, layout: ImageLayout) -> Float[Array, "n sh sw 3"]:
    """See `padded.reconstruct`."""
    deep = convolution(x, model.deep_features, layout.rows(1), norm=model.norm) + shallow
    return model.assemble(from_kernel_layout(convolution(deep, model.upsampler, layout.rows(0)), layout.width))


def _residual_group(
    group: ResidualGroup,
    x: Array,
    valid_region: ValidRegion | None,
    region: Array,
    *,
    width: int,
    config: SeemoReConfig,
) -> tuple[Array, Routing]:
    """Computes a whole group. Features and context are kept for its gradient; the steps below recompute them."""
    layout = ImageLayout(width, valid_region, region, config)
    block = group.rank_modulating.mixture_block
    embedded = embed(group, x, layout)
    features, context, total = layout.apply("features_and_context", embedded, *_separating(block))
    routing = block.mixture.route(block.mixture.router.choose(total / (layout.region[3] * layout.region[1])))
    if block.recursive:
        (reduced,) = layout.apply("reduction", context, *_taps(block.aggregate))
        reduced = _reduced(reduced, layout)
    else:
        reduced = from_kernel_layout(context, layout.width)
    experts = _experts(block, x, summarize(group, reduced, layout), routing)
    (x,) = layout.apply("low_rank_experts", x, features, context, *experts)
    return _after_mixture(group, x, layout), routing


def embed(group: ResidualGroup, x: Array, layout: ImageLayout) -> Array:
    """See `padded.embed`."""
    local = group.rank_modulating
    return convolution(x, local.mixture_block.embed, layout.rows(_LOCAL_REACH), norm=local.norm_1)


def global_statistics(group: ResidualGroup, embedded: Array, layout: ImageLayout) -> tuple[Float[Array, "n c"], Array]:
    """See `padded.global_statistics`."""
    block, layout = group.rank_modulating.mixture_block, layout.rows(0)
    if not block.recursive:
        _, context, total = layout.apply("features_and_context", embedded, *_separating(block))
        return total, from_kernel_layout(context, layout.width)
    native.prepare("strips")
    arrays = *_separating(block), *_taps(block.aggregate)
    total, reduced = layout.apply("global_statistics", embedded, *arrays)
    return total, _reduced(reduced, layout)


def _reduced(reduced: Array, layout: ImageLayout) -> Float[Array, "n h2 w2 c"]:
    """Returns the context after its first reduction, in the plain layout: the plain network computes the rest."""
    return gelu(from_kernel_layout(reduced, layout.width // 4))


def summarize(group: ResidualGroup, reduced: Float[Array, "n h w c"], layout: ImageLayout) -> Float[Array, "n h2 c p"]:
    """See `padded.summarize`. The result is resized along the width; the kernels resize it along the height."""
    block = group.rank_modulating.mixture_block
    for _ in range(1, block.recursive):
        reduced = block.reduce(reduced)
    summary = mix_summary(block, reduced, layout.valid_region)
    if layout.valid_region is None:
        shape = (*summary.shape[:2], layout.width, summary.shape[3])
        return to_kernel_layout(jax.image.resize(summary, shape, "bilinear", antialias=False, precision="highest"))
    small = layout.valid_region.reduced(block.recursive)
    return to_kernel_layout(resize_axis(summary, 2, layout.width, small.width, layout.valid_region.width, jnp.int32(0)))


def modulate(
    group: ResidualGroup,
    x: Array,
    embedded: Array,
    summary: Float[Array, "n h2 c p"],
    routing: Routing,
    layout: ImageLayout,
) -> Array:
    """See `padded.modulate`. Each operation computes as many rows as the operations after it need."""
    native.prepare("strips")
    block = group.rank_modulating.mixture_block
    arrays = *_separating(block), *_experts(block, x, summary, routing)
    (x,) = layout.rows(_reach(group)).apply("low_rank_experts_of_embedded", x, embedded, *arrays)
    return _after_mixture(group, x, layout)


def _after_mixture(group: ResidualGroup, x: Array, layout: ImageLayout) -> Array:
    """Applies the feed-forward after the mixture of experts, and the spatial modulating expert."""
    local, spatial = group.rank_modulating, group.spatial_modulating
    x = _gated_feed_forward(local.norm_2, local.feed_forward, x, layout.rows(_reach(group) - 1))
    enhancement = spatial.enhancement
    expand, expand_bias = _after_norm(spatial.norm_1, enhancement.to_query_value)
    striped, project = _striped_weights(enhancement.striped), _weights(enhancement.project)
    arrays = expand, expand_bias, *striped, *project
    (x,) = layout.rows(_AHEAD + 1).apply("spatial_enhancement", x, *arrays)
    return _gated_feed_forward(spatial.norm_2, spatial.feed_forward, x, layout.rows(_AHEAD))


def _reach(group: ResidualGroup) -> int:
    """Returns how many rows on each side of a strip the operations after the routing need."""
    return _AHEAD + 2 + group.spatial_modulating.enhancement.striped.column.kernel.shape[0] // 2


def _gated_feed_forward(norm: nnx.LayerNorm, ffn: GatedFeedForward, x: Array, layout: ImageLayout) -> Array:
    expand, expand_bias = _after_norm(norm, ffn.expand)
    arrays = expand, expand_bias, *_taps(ffn.gate), *_weights(ffn.project)
    (x,) = layout.apply("gated_feed_forward", x, *arrays)
    return x


def _separating(block: MixtureOfRankExpertsBlock) -> tuple[Array, ...]:
    """Returns the weights that compute features and context from the embedded input."""
    expand, expand_bias = _weights(block.expand)
    if block.use_shuffle:  # the shuffle of the outputs, done to the weights that make them
        order = np.arange(expand.shape[1]).reshape(2, -1).T.ravel()
        expand, expand_bias = expand[:, order], expand_bias[order]
    return expand, expand_bias, *_striped_weights(block.local)


def _experts(
    block: MixtureOfRankExpertsBlock, x: Array, summary: Float[Array, "n h2 c p"], routing: Routing
) -> tuple[Array, ...]:
    """Returns the summary and the weights of x + MoRE(LN(x)), as the experts' kernels take them."""
    weights = jnp.take_along_axis(routing.probabilities, routing.experts, axis=-1)
    expert = jax.tree.map(lambda array: array.astype(jnp.float32), block.mixture.gathered(routing.experts))
    # The k experts of an image, concatenated, are one expert of k times the rank; project(features + up(low)) is one
    # linear map.
    from_features, from_context = _concatenated(expert.from_features), _concatenated(expert.from_context)
    up = (expert.up * weights[..., None, None]).reshape(x.shape[0], -1, x.shape[2])
    up_bias = jnp.einsum("nkc,nk->nc", expert.up_bias, weights)
    project, project_bias = _weights(block.project)
    product = functools.partial(jnp.matmul, precision="highest")
    out = jnp.concatenate([jnp.broadcast_to(project, (x.shape[0], *project.shape)), product(up, project)], axis=1)
    return (
        summary,
        from_features,
        expert.from_features_bias.reshape(x.shape[0], -1),
        from_context,
        expert.from_context_bias.reshape(x.shape[0], -1),
        out,
        product(up_bias, project) + project_bias,
    )


def _concatenated(kernels: Float[Array, "n k c r"]) -> Float[Array, "n c kr"]:
    n, k, c, r = kernels.shape
    return kernels.transpose(0, 2, 1, 3).reshape(n, c, k * r)


def convolution(
    x: Array, layer: nnx.Conv, layout: ImageLayout, norm: nnx.LayerNorm | None = None
) -> Float[Array, "n h o p"]:
    """Applies a dense 3×3 convolution to (N, H, C, P) features, or to their LayerNorm."""
    scale, offset = _affine(norm) if norm else no_norm()
    taps, bias = _weights(layer)
    (x,) = layout.apply("convolution", x, scale, offset, taps.reshape(-1, taps.shape[-1]), bias)
    return x


def _weights(layer: nnx.Linear | nnx.Conv) -> tuple[Array, Array]:
    assert layer.bias is not None
    return _float32(layer.kernel), _float32(layer.bias)


def _affine(norm: nnx.LayerNorm) -> tuple[Array, Array]:
    assert norm.scale is not None
    assert norm.bias is not None
    return _float32(norm.scale), _float32(norm.bias)


def _float32(parameter: nnx.Param[Array]) -> Array:
    """Casts a parameter to the type that the kernels take."""
    return parameter[...].astype(jnp.float32)


def _taps(layer: nnx.Conv) -> tuple[Float[Array, "taps c"], Float[Array, " c"]]:
    taps, bias = _weights(layer)
    return taps.reshape(-1, taps.shape[-1]), bias


def _striped_weights(striped: StripedConvolution) -> tuple[Array, ...]:
    return *_taps(striped.row), *_taps(striped.column)


def _after_norm(norm: nnx.LayerNorm, linear: nnx.Linear) -> tuple[Array, Array]:
    """Returns the linear map with the norm's scale and offset folded in, as the kernels only normalize."""
    kernel, bias = _weights(linear)
    scale, offset = _affine(norm)
    return scale[:, None] * kernel, bias + jnp.matmul(offset, kernel, precision="highest")
