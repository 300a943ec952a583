"""The network on a CPU: its convolutions and experts by the kernels in `native`, the little that remains by XLA.

The kernels take feature maps as (N, H, C, P): each image row is C lines of P floats, P being the width rounded up to
whole vectors. Which rows and columns are image they are told by their first array, the region.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.extent import Extent, resize_axis
from seemore_jax.network.implementations import native, self_check
from seemore_jax.network.implementations.cpu_operations import Region, operation
from seemore_jax.network.implementations.plain import stack_routings
from seemore_jax.network.layers import gelu
from seemore_jax.network.routing import Routing

if TYPE_CHECKING:
    from seemore_jax.network.seemore import (
        GatedFeedForward,
        MixtureOfRankExpertsBlock,
        ResidualGroup,
        SeemoRe,
        StripedConvolution,
    )

_BLOCK = 16  # kBlock of native/rows.h
_MARGIN = 16  # kMargin: the longest filter reaches so far
_LOCAL_REACH = 1  # rows that the local features see beyond their own
_AHEAD = 2  # rows that are seen after a group: by the next embedding and its features, or by the reconstruction


def supports(config: SeemoReConfig) -> bool:
    """Whether the kernels can compute this network here: in float32, and with filters that they have room for."""
    return config.compute_dtype == "float32" and config.global_kernel_size <= 2 * _MARGIN + 1 and native.available()


def apply_network(
    model: "SeemoRe", lr: Float[Array, "n h w 3"], extent: Extent | None = None
) -> tuple[Float[Array, "n sh sw 3"], Routing]:
    """As `plain.apply_network`."""
    where = place(lr.shape[1:3], model.config, extent)
    shallow = x = extract(model, lr, where)
    # All groups are one function, so that it is traced once.
    traced_once = jax.jit(functools.partial(_residual_group, width=where.width, config=model.config))
    apply_group = jax.checkpoint(traced_once) if model.config.rematerialize else traced_once
    routings = []
    for group in model.groups:
        x, routing = apply_group(group, x, where.extent, where.region)
        routings.append(routing)
    return reconstruct(model, x, shallow, where), stack_routings(routings)


class Place(NamedTuple):
    """Where the image is.

    Attributes:
      width: of the array, before it was padded to whole vectors.
      extent: of the image in the array; None if it is all of it.
      region: the valid region of the arrays, as the kernels take it.
      config: the network's hyperparameters.
    """

    width: int
    extent: Extent | None
    region: Int32[Array, "9"]
    config: SeemoReConfig

    def apply(self, name: str, *arrays: Array) -> tuple[Array, ...]:
        """The results of one of the operations of `cpu_operations`, on the image."""
        return operation(name, _trusts_gradients(self.config))(self.region, *arrays)

    def rows(self, margin: int) -> "Place":
        """To compute only the rows that count in means, and so many beyond: with them go those of neighbours."""
        if self.extent is None:
            return self
        begin, end = self.extent.begin - margin, self.extent.end + margin
        rows = jnp.stack([jnp.maximum(begin, 0), jnp.minimum(end, self.extent.height)])
        return self._replace(region=self.region.at[7:].set(rows))


def place(shape: tuple[int, ...], config: SeemoReConfig, extent: Extent | None) -> Place:
    """Where the image is in feature maps of that height and width."""
    height, width = shape
    known = extent or Extent.of(height, width)
    summary_rows = known.image_height // 4**config.recursive
    rows = (known.first_row, known.image_height, summary_rows, known.begin, known.end, jnp.int32(0), known.height)
    return Place(width, extent, jnp.stack(Region(known.height, known.width, *rows)), config)


@functools.cache
def _trusts_gradients(config: SeemoReConfig) -> Callable[[], bool]:
    """Whether the backward kernels passed the self-check: asked only where a gradient is taken, which compiles them."""
    return lambda: self_check.is_usable("cpu", apply_network, config, gradients=True)


def enter(x: Float[Array, "n h w c"]) -> Float[Array, "n h c p"]:
    """The kernels' layout."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % _BLOCK), (0, 0))).swapaxes(2, 3)


def leave(x: Float[Array, "n h c p"], width: int) -> Float[Array, "n h w c"]:
    """The inverse of `enter`."""
    return x[..., :width].swapaxes(2, 3)


def extract(model: "SeemoRe", lr: Float[Array, "n h w 3"], place: Place) -> Array:
    """As `plain.extract`."""
    return convolution(enter(model.center(lr)), model.shallow_features, place.rows(_AHEAD))


def reconstruct(model: "SeemoRe", x: Array, shallow: Array, place: Place) -> Float[Array, "n sh sw 3"]:
    """As `plain.reconstruct`."""
    deep = convolution(x, model.deep_features, place.rows(1), norm=model.norm) + shallow
    return model.assemble(leave(convolution(deep, model.upsampler, place.rows(0)), place.width))


def _residual_group(
    group: "ResidualGroup", x: Array, extent: Extent | None, region: Array, *, width: int, config: SeemoReConfig
) -> tuple[Array, Routing]:
    """Its features and context are kept, as its gradient needs them; `survey` and `modulate` do without."""
    place = Place(width, extent, region, config)
    block = group.rank_modulating.mixture_block
    embedded = embed(group, x, place)
    features, context, total = place.apply("features_and_context", embedded, *_separating(block))
    routing = block.mixture.route(block.mixture.router.choose(total / (place.region[3] * place.region[1])))
    if block.recursive:
        (reduced,) = place.apply("reduction", context, *_taps(block.aggregate))
        reduced = _reduced(reduced, place)
    else:
        reduced = leave(context, place.width)
    experts = _experts(block, x, summarize(group, reduced, place), routing)
    (x,) = place.apply("low_rank_experts", x, features, context, *experts)
    return _after_mixture(group, x, place), routing


def embed(group: "ResidualGroup", x: Array, place: Place) -> Array:
    """The dense convolution that a residual group begins with, of LN(x)."""
    local = group.rank_modulating
    return convolution(x, local.mixture_block.embed, place.rows(_LOCAL_REACH), norm=local.norm_1)


def survey(group: "ResidualGroup", embedded: Array, place: Place) -> tuple[Float[Array, "n c"], Array]:
    """As `plain.survey`."""
    block, place = group.rank_modulating.mixture_block, place.rows(0)
    if not block.recursive:
        _, context, total = place.apply("features_and_context", embedded, *_separating(block))
        return total, leave(context, place.width)
    native.prepare("strips")
    arrays = *_separating(block), *_taps(block.aggregate)
    total, reduced = place.apply("survey", embedded, *arrays)
    return total, _reduced(reduced, place)


def _reduced(reduced: Array, place: Place) -> Float[Array, "n h2 w2 c"]:
    """The context after the first of its reductions: from here on, the plain network goes on."""
    return gelu(leave(reduced, place.width // 4))


def summarize(group: "ResidualGroup", reduced: Float[Array, "n h w c"], place: Place) -> Float[Array, "n h2 c p"]:
    """As `plain.summarize`; resized along the rows, and the kernels do it along the columns."""
    block = group.rank_modulating.mixture_block
    for _ in range(1, block.recursive):
        reduced = block.reduce(reduced)
    summary = block.mix_summary(reduced, place.extent)
    if place.extent is None:
        shape = (*summary.shape[:2], place.width, summary.shape[3])
        return enter(jax.image.resize(summary, shape, "bilinear", antialias=False, precision="highest"))
    small = place.extent.reduced(block.recursive)
    return enter(resize_axis(summary, 2, place.width, small.width, place.extent.width, jnp.int32(0)))


def modulate(
    group: "ResidualGroup",
    x: Array,
    embedded: Array,
    summary: Float[Array, "n h2 c p"],
    routing: Routing,
    place: Place,
) -> Array:
    """All that comes after the routing; each step on as many rows as those after it see."""
    native.prepare("strips")
    block = group.rank_modulating.mixture_block
    arrays = *_separating(block), *_experts(block, x, summary, routing)
    (x,) = place.rows(_reach(group)).apply("low_rank_experts_of_embedded", x, embedded, *arrays)
    return _after_mixture(group, x, place)


def _after_mixture(group: "ResidualGroup", x: Array, place: Place) -> Array:
    """From the mixture of experts on: a feed-forward, and the spatial modulating expert."""
    local, wide = group.rank_modulating, group.spatial_modulating
    x = _gated_feed_forward(local.norm_2, local.feed_forward, x, place.rows(_reach(group) - 1))
    enhancement = wide.enhancement
    expand, expand_bias = _after_norm(wide.norm_1, enhancement.to_query_value)
    striped, project = _striped_weights(enhancement.striped), _weights(enhancement.project)
    arrays = expand, expand_bias, *striped, *project
    (x,) = place.rows(_AHEAD + 1).apply("spatial_enhancement", x, *arrays)
    return _gated_feed_forward(wide.norm_2, wide.feed_forward, x, place.rows(_AHEAD))


def _reach(group: "ResidualGroup") -> int:
    """Rows beyond a part of an image that it takes after the routing."""
    return _AHEAD + 2 + group.spatial_modulating.enhancement.striped.column.kernel.shape[0] // 2


def _gated_feed_forward(norm: nnx.LayerNorm, ffn: "GatedFeedForward", x: Array, place: Place) -> Array:
    expand, expand_bias = _after_norm(norm, ffn.expand)
    arrays = expand, expand_bias, *_taps(ffn.gate), *_weights(ffn.project)
    (x,) = place.apply("gated_feed_forward", x, *arrays)
    return x


def _separating(block: "MixtureOfRankExpertsBlock") -> tuple[Array, ...]:
    """The weights that make features and context of the embedded input."""
    expand, expand_bias = _weights(block.expand)
    if block.use_shuffle:  # the shuffle of the outputs, done to the weights that make them
        order = np.arange(expand.shape[1]).reshape(2, -1).T.ravel()
        expand, expand_bias = expand[:, order], expand_bias[order]
    return expand, expand_bias, *_striped_weights(block.local)


def _experts(
    block: "MixtureOfRankExpertsBlock", x: Array, summary: Float[Array, "n h2 c p"], routing: Routing
) -> tuple[Array, ...]:
    """The summary, and the weights of x + MoRE(LN(x)), as the experts' kernels take them."""
    weights = jnp.take_along_axis(routing.probabilities, routing.experts, axis=-1)
    expert = jax.tree.map(lambda array: array.astype(jnp.float32), block.mixture.gathered(routing.experts))
    # The k experts of an image side by side are one of k times the rank; project(features + up(low)) is one map.
    from_features, from_context = _side_by_side(expert.from_features), _side_by_side(expert.from_context)
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


def _side_by_side(kernels: Float[Array, "n k c r"]) -> Float[Array, "n c kr"]:
    n, k, c, r = kernels.shape
    return kernels.transpose(0, 2, 1, 3).reshape(n, c, k * r)


def convolution(x: Array, layer: nnx.Conv, place: Place, norm: nnx.LayerNorm | None = None) -> Float[Array, "n h o p"]:
    """A dense 3×3 convolution of (N, H, C, P) features, or of their LayerNorm."""
    scale, offset = _affine(norm) if norm else (jnp.zeros(0, jnp.float32),) * 2
    taps, bias = _weights(layer)
    (x,) = place.apply("convolution", x, scale, offset, taps.reshape(-1, taps.shape[-1]), bias)
    return x


def _weights(layer: nnx.Linear | nnx.Conv) -> tuple[Array, Array]:
    assert layer.bias is not None
    return _float32(layer.kernel), _float32(layer.bias)


def _affine(norm: nnx.LayerNorm) -> tuple[Array, Array]:
    assert norm.scale is not None
    assert norm.bias is not None
    return _float32(norm.scale), _float32(norm.bias)


def _float32(parameter: nnx.Param[Array]) -> Array:
    """What the kernels take, whatever type the parameters were cast to."""
    return parameter[...].astype(jnp.float32)


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
