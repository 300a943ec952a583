"""Implementation for a CPU: C++ kernels compute the convolutions and the experts, XLA computes the rest.

The kernels (`native`) take feature maps as (N, H, C, P): each image row is C lines of P floats, where P is the width
rounded up to a multiple of 16. Their first argument is the valid region of the feature maps.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import native, padded, self_check
from seemore_jax.network.implementations.cpu_operations import KernelRegion, no_norm, operation
from seemore_jax.network.implementations.cpu_weights import (
    affine_of,
    expert_weights,
    features_weights,
    linear_after_norm,
    striped_weights,
    taps_of,
    weights_of,
)
from seemore_jax.network.layers import gelu
from seemore_jax.network.routing import Routing, stack_routings
from seemore_jax.network.seemore import GatedFeedForward, ResidualGroup, SeemoReNetwork
from seemore_jax.network.valid_region import ValidRegion, resize_axis

_BLOCK = 16  # kBlock of native/rows.h
_MARGIN = 16  # kMargin of native/rows.h: pixels on each side that the longest filter reads
_LOCAL_REACH = 1  # rows on each side of the embedded features that the local features read
_ROWS_AFTER_GROUP = 2  # rows on each side of a group's output that the next group, or the reconstruction, reads


def supports(config: SeemoReConfig) -> bool:
    """Returns whether the kernels can compute a network on this machine.

    Args:
      config: configuration of the network. The kernels take filters of at most 33 pixels. They compute in float32 for
        `compute_dtype="bfloat16"`, too: XLA's bfloat16 takes three times as long on a CPU, and is less exact.
    """
    return config.global_kernel_size <= 2 * _MARGIN + 1 and native.available()


def apply_network(
    model: SeemoReNetwork, lr: Float[Array, "n h w 3"], valid_region: ValidRegion | None = None
) -> tuple[Float[Array, "n sh sw 3"], Routing]:
    """Computes `SeemoReNetwork.__call__`.

    Args:
      model: network.
      lr: low-resolution images with values in [0, 1].
      valid_region: valid region of `lr`; None if the images fill the array.

    Returns:
      As `plain.apply_network`.
    """
    layout = image_layout(lr.shape[1:3], model.config, valid_region)
    shallow = x = extract(model, lr, layout)
    # All groups call one compiled function, so that JAX traces it only once.
    traced_once = jax.jit(functools.partial(_residual_group, width=layout.width, config=model.config))
    apply_group = jax.checkpoint(traced_once) if model.config.rematerialize else traced_once
    routings = []
    for group in model.groups:
        x, routing = apply_group(group, x, layout.valid_region, layout.region)
        routings.append(routing)
    return reconstruct(model, x, shallow, layout), stack_routings(routings)


class ImageLayout(NamedTuple):
    """Layout of an image in the feature maps of the kernels.

    Attributes:
      width: width of the feature maps in pixels, before the padding to a multiple of 16.
      valid_region: valid region of the feature maps; None if the image fills them.
      region: `KernelRegion` as one array, the first argument of the kernels.
      config: configuration of the network.
    """

    width: int
    valid_region: ValidRegion | None
    region: Int32[Array, "9"]
    config: SeemoReConfig

    def field(self, name: str) -> Int32[Array, ""]:
        """Returns one value of the region.

        Args:
          name: name of a field of `KernelRegion`.
        """
        return self.region[KernelRegion._fields.index(name)]

    def apply(self, name: str, *arrays: Array) -> tuple[Array, ...]:
        """Applies an operation of `cpu_operations` to the image.

        Args:
          name: name of the operation.
          *arrays: arrays of the operation after the region.

        Returns:
          The results of the operation.
        """
        return operation(name, _trusts_gradients(self.config))(self.region, *arrays)

    def rows(self, margin: int) -> "ImageLayout":
        """Returns a layout for which the kernels compute only the strip's own rows and a margin.

        Args:
          margin: number of rows to compute on each side of the strip's own rows.
        """
        if self.valid_region is None:
            return self
        begin, end = self.valid_region.begin - margin, self.valid_region.end + margin
        rows = jnp.stack([jnp.maximum(begin, 0), jnp.minimum(end, self.valid_region.height)])
        position = KernelRegion._fields.index("compute_begin")
        return self._replace(region=self.region.at[position : position + 2].set(rows))


def image_layout(shape: tuple[int, ...], config: SeemoReConfig, valid_region: ValidRegion | None) -> ImageLayout:
    """Returns the layout of an image.

    Args:
      shape: height and width of the feature maps in pixels.
      config: configuration of the network.
      valid_region: valid region of the feature maps; None if the image fills them.
    """
    height, width = shape
    known = valid_region or ValidRegion.of(height, width)
    summary_rows = known.image_height // 4**config.recursive
    rows = (known.first_row, known.image_height, summary_rows, known.begin, known.end, jnp.int32(0), known.height)
    return ImageLayout(width, valid_region, jnp.stack(KernelRegion(known.height, known.width, *rows)), config)


@functools.cache
def _trusts_gradients(config: SeemoReConfig) -> Callable[[], bool]:
    """Returns a function that says whether the backward kernels passed the self-check.

    The function compiles these kernels and is therefore called only when a gradient is traced.
    """
    return lambda: self_check.is_usable("cpu", apply_network, config, gradients=True)


def to_kernel_layout(x: Float[Array, "n h w c"]) -> Float[Array, "n h c p"]:
    """Transposes feature maps to the layout of the kernels.

    Args:
      x: feature maps.

    Returns:
      Feature maps with the channels before the columns; the columns are padded with zeros to a multiple of 16.
    """
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % _BLOCK), (0, 0))).swapaxes(2, 3)


def from_kernel_layout(x: Float[Array, "n h c p"], width: int) -> Float[Array, "n h w c"]:
    """Inverts `to_kernel_layout`.

    Args:
      x: feature maps in the layout of the kernels.
      width: number of columns to keep.

    Returns:
      Feature maps in the layout of the layers.
    """
    return x[..., :width].swapaxes(2, 3)


def extract(model: SeemoReNetwork, lr: Float[Array, "n h w 3"], layout: ImageLayout) -> Array:
    """Returns the shallow features.

    Args:
      model: network.
      lr: low-resolution images with values in [0, 1].
      layout: layout of the image.
    """
    return convolution(to_kernel_layout(model.center(lr)), model.shallow_features, layout.rows(_ROWS_AFTER_GROUP))


def reconstruct(model: SeemoReNetwork, x: Array, shallow: Array, layout: ImageLayout) -> Float[Array, "n sh sw 3"]:
    """Returns the upscaled images.

    Args:
      model: network.
      x: features after all residual groups.
      shallow: shallow features.
      layout: layout of the image.
    """
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
    """Computes a whole residual group. Unlike the steps below, it keeps features and context for the gradient."""
    layout = ImageLayout(width, valid_region, region, config)
    block = group.rank_modulating.mixture_block
    embedded = embed(group, x, layout)
    features, context, total = layout.apply("features_and_context", embedded, *features_weights(block))
    mean = total / (layout.field("image_height") * layout.field("width"))
    routing = block.mixture.route(block.mixture.router.choose(mean))
    if block.recursive:
        (reduced,) = layout.apply("reduction", context, *taps_of(block.aggregate))
        reduced = _reduced(reduced, layout)
    else:
        reduced = from_kernel_layout(context, layout.width)
    summary = summarize(group, reduced, layout)
    (x,) = layout.apply("low_rank_experts", x, features, context, summary, *expert_weights(block, routing))
    return _after_mixture(group, x, layout), routing


def embed(group: ResidualGroup, x: Array, layout: ImageLayout) -> Array:
    """Returns the embedded features of a residual group: the dense convolution of LN(x).

    Args:
      group: residual group.
      x: input of the group.
      layout: layout of the image.
    """
    local = group.rank_modulating
    return convolution(x, local.mixture_block.embed, layout.rows(_LOCAL_REACH), norm=local.norm_1)


def global_statistics(group: ResidualGroup, embedded: Array, layout: ImageLayout) -> tuple[Float[Array, "n c"], Array]:
    """Computes the statistics of the whole image that the rest of a group needs.

    Args:
      group: residual group.
      embedded: embedded features of the group.
      layout: layout of the image.

    Returns:
      As `padded.global_statistics`.
    """
    block, layout = group.rank_modulating.mixture_block, layout.rows(0)
    if not block.recursive:
        _, context, total = layout.apply("features_and_context", embedded, *features_weights(block))
        return total, from_kernel_layout(context, layout.width)
    arrays = *features_weights(block), *taps_of(block.aggregate)
    total, reduced = layout.apply("global_statistics", embedded, *arrays)
    return total, _reduced(reduced, layout)


def _reduced(reduced: Array, layout: ImageLayout) -> Float[Array, "n h2 w2 c"]:
    """Returns the reduced context after GELU, in the layout of the layers, which compute the other reductions."""
    return gelu(from_kernel_layout(reduced, layout.width // 4))


def summarize(group: ResidualGroup, reduced: Float[Array, "n h w c"], layout: ImageLayout) -> Float[Array, "n h2 c p"]:
    """Computes the summary of the context and resizes it along the width. The kernels resize it along the height.

    Args:
      group: residual group.
      reduced: context of the whole image after its first reduction by 4 (the context itself if there is none).
      layout: layout of the image.

    Returns:
      The summary in the layout of the kernels.
    """
    summary = padded.summarize(group, reduced, layout.valid_region).astype(jnp.float32)
    if layout.valid_region is None:
        shape = (*summary.shape[:2], layout.width, summary.shape[3])
        return to_kernel_layout(jax.image.resize(summary, shape, "bilinear", antialias=False, precision="highest"))
    small = layout.valid_region.reduced(layout.config.recursive)
    return to_kernel_layout(resize_axis(summary, 2, layout.width, small.width, layout.valid_region.width, jnp.int32(0)))


def modulate(
    group: ResidualGroup,
    x: Array,
    embedded: Array,
    summary: Float[Array, "n h2 c p"],
    routing: Routing,
    layout: ImageLayout,
) -> Array:
    """Computes the rest of a residual group after the routing. It computes the features and the context again.

    Each operation computes only the rows that the operations after it read.

    Args:
      group: residual group.
      x: input of the group.
      embedded: embedded features of the group.
      summary: summary of the context of the whole image.
      routing: routing of the group.
      layout: layout of the image.

    Returns:
      The output of the group.
    """
    block = group.rank_modulating.mixture_block
    arrays = *features_weights(block), summary, *expert_weights(block, routing)
    (x,) = layout.rows(_reach(group)).apply("low_rank_experts_of_embedded", x, embedded, *arrays)
    return _after_mixture(group, x, layout)


def _after_mixture(group: ResidualGroup, x: Array, layout: ImageLayout) -> Array:
    """Applies the feed-forward after the mixture of experts, and the spatial modulating expert."""
    local, spatial = group.rank_modulating, group.spatial_modulating
    x = _gated_feed_forward(local.norm_2, local.feed_forward, x, layout.rows(_reach(group) - 1))
    enhancement = spatial.enhancement
    expand, expand_bias = linear_after_norm(spatial.norm_1, enhancement.to_query_value)
    striped, project = striped_weights(enhancement.striped), weights_of(enhancement.project)
    arrays = expand, expand_bias, *striped, *project
    (x,) = layout.rows(_ROWS_AFTER_GROUP + 1).apply("spatial_enhancement", x, *arrays)
    return _gated_feed_forward(spatial.norm_2, spatial.feed_forward, x, layout.rows(_ROWS_AFTER_GROUP))


def _reach(group: ResidualGroup) -> int:
    """Returns how many rows on each side of a strip the operations after the mixture of experts read."""
    return _ROWS_AFTER_GROUP + 2 + group.spatial_modulating.enhancement.striped.column.kernel.shape[0] // 2


def _gated_feed_forward(norm: nnx.LayerNorm, ffn: GatedFeedForward, x: Array, layout: ImageLayout) -> Array:
    """Computes x + GatedFFN(LN(x))."""
    expand, expand_bias = linear_after_norm(norm, ffn.expand)
    arrays = expand, expand_bias, *taps_of(ffn.gate), *weights_of(ffn.project)
    (x,) = layout.apply("gated_feed_forward", x, *arrays)
    return x


def convolution(
    x: Array, layer: nnx.Conv, layout: ImageLayout, norm: nnx.LayerNorm | None = None
) -> Float[Array, "n h o p"]:
    """Computes a dense 3×3 convolution.

    Args:
      x: feature maps in the layout of the kernels.
      layer: convolution with a kernel (3, 3, C, O).
      layout: layout of the image.
      norm: LayerNorm before the convolution; None if there is none.

    Returns:
      Feature maps in the layout of the kernels, with O channels.
    """
    scale, offset = affine_of(norm) if norm else no_norm()
    taps, bias = weights_of(layer)
    (x,) = layout.apply("convolution", x, scale, offset, taps.reshape(-1, taps.shape[-1]), bias)
    return x
