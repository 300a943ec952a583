"""Plain implementation for images that are only a part of their arrays, the valid region.

It applies the layers of `seemore_jax.network.seemore` with three changes. Everything outside of the valid region is set
to zero before each convolution that pads with zeros. Means leave it out. The summary of the context is resized to the
size of the image, not of the array. The computation has the steps of `NetworkSteps`, so that it can be applied to one
strip of an image after the other.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.layers import gelu
from seemore_jax.network.routing import Routing, stack_routings
from seemore_jax.network.seemore import (
    GatedFeedForward,
    MixtureOfRankExpertsBlock,
    ResidualGroup,
    SeemoReNetwork,
    SpatialEnhancementExpertise,
    StripedConvolution,
)
from seemore_jax.network.valid_region import ValidRegion, mask_outside, resize_axis, sum_inside


def apply_network(
    model: SeemoReNetwork, lr: Float[Array, "n h w 3"], region: ValidRegion
) -> tuple[Float[Array, "n sh sw 3"], Routing]:
    """Computes `SeemoReNetwork.__call__` for the valid region of an array.

    Args:
      model: network.
      lr: low-resolution images with values in [0, 1].
      region: valid region of `lr`.

    Returns:
      As `plain.apply_network`.
    """
    shallow = x = extract(model, lr, region)
    apply_group = jax.checkpoint(_apply_group) if model.config.rematerialize else _apply_group
    routings = []
    for group in model.groups:
        x, routing = apply_group(group, x, region)
        routings.append(routing)
    return reconstruct(model, x, shallow, region), stack_routings(routings)


def _apply_group(group: ResidualGroup, x: Array, region: ValidRegion) -> tuple[Array, Routing]:
    block = group.rank_modulating.mixture_block
    features, context = _separate(block, embed(group, x, region), region)
    mean = sum_inside(features, region) / (region.height * region.width)
    routing = block.mixture.route(block.mixture.router.choose(mean))
    reduced = block.reduce(context) if block.recursive else context
    summary = summarize(group, reduced, region)
    return _modulate(group, x, features, context, summary, routing, region), routing


# The steps of `NetworkSteps`.


def image_layout(shape: tuple[int, ...], config: SeemoReConfig, region: ValidRegion) -> ValidRegion:
    """Returns the layout of an image, an argument of the other steps: here, the valid region.

    Args:
      shape: height and width of the feature maps in pixels.
      config: configuration of the network.
      region: valid region of the feature maps.
    """
    del shape, config
    return region


def extract(model: SeemoReNetwork, lr: Float[Array, "n h w 3"], region: ValidRegion) -> Array:
    """Returns the shallow features.

    Args:
      model: network.
      lr: low-resolution images with values in [0, 1].
      region: layout of the image.
    """
    return model.shallow_features(mask_outside(model.center(lr), region))


def embed(group: ResidualGroup, x: Array, region: ValidRegion) -> Array:
    """Returns the embedded features of a residual group: the dense convolution of LN(x).

    Args:
      group: residual group.
      x: input of the group.
      region: layout of the image.
    """
    local = group.rank_modulating
    return local.mixture_block.embed(mask_outside(local.norm_1(x), region))


def global_statistics(
    group: ResidualGroup, embedded: Array, region: ValidRegion
) -> tuple[Float[Array, "n c"], Float[Array, "n h2 w2 c"]]:
    """Computes the statistics of the whole image that the rest of a group needs.

    Args:
      group: residual group.
      embedded: embedded features of the group.
      region: layout of the image.

    Returns:
      The sum of the local features over the strip's own rows, float32, and the context after its first reduction by 4
      (the context itself if `config.recursive` is 0).
    """
    block = group.rank_modulating.mixture_block
    features, context = _separate(block, embedded, region)
    return sum_inside(features, region), block.reduce(context) if block.recursive else context


def summarize(
    group: ResidualGroup, reduced: Float[Array, "n h w c"], region: ValidRegion | None
) -> Float[Array, "n h2 w2 c"]:
    """Returns the summary of the context: its remaining reductions, then two convolutions.

    Args:
      group: residual group.
      reduced: context of the whole image after its first reduction by 4 (the context itself if there is none).
      region: layout of the image; None if the image fills its arrays.
    """
    block = group.rank_modulating.mixture_block
    for _ in range(1, block.recursive):
        reduced = block.reduce(reduced)
    if region is not None:
        reduced = mask_outside(reduced, region.reduced(block.recursive))
    return block.context_pointwise(block.context_depthwise(reduced))


def modulate(
    group: ResidualGroup, x: Array, embedded: Array, summary: Array, routing: Routing, region: ValidRegion
) -> Array:
    """Computes the rest of a residual group after the routing. It computes the features and the context again.

    Args:
      group: residual group.
      x: input of the group.
      embedded: embedded features of the group.
      summary: summary of the context of the whole image.
      routing: routing of the group.
      region: layout of the image.

    Returns:
      The output of the group.
    """
    features, context = _separate(group.rank_modulating.mixture_block, embedded, region)
    return _modulate(group, x, features, context, summary, routing, region)


def reconstruct(model: SeemoReNetwork, x: Array, shallow: Array, region: ValidRegion) -> Float[Array, "n sh sw 3"]:
    """Returns the upscaled images.

    Args:
      model: network.
      x: features after all residual groups.
      shallow: shallow features.
      region: layout of the image.
    """
    x = model.deep_features(mask_outside(model.norm(x), region)) + shallow
    return model.assemble(model.upsampler(mask_outside(x, region)))


# Layers.


def _separate(block: MixtureOfRankExpertsBlock, embedded: Array, region: ValidRegion) -> tuple[Array, Array]:
    """Computes the local features and the context."""
    features, context = block.split(embedded)
    return gelu(_striped(block.local, features, region)), context


def _modulate(
    group: ResidualGroup,
    x: Array,
    features: Array,
    context: Array,
    summary: Array,
    routing: Routing,
    region: ValidRegion,
) -> Array:
    local, spatial = group.rank_modulating, group.spatial_modulating
    block = local.mixture_block
    context = context + _resize(summary, context.shape[1:3], region, block.recursive)
    x = x + block.project(block.mixture.mix(features, context, routing))
    x = x + _feed_forward(local.feed_forward, local.norm_2(x), region)
    x = x + _enhance(spatial.enhancement, spatial.norm_1(x), region)
    return x + _feed_forward(spatial.feed_forward, spatial.norm_2(x), region)


def _resize(summary: Array, shape: tuple[int, ...], region: ValidRegion, reductions: int) -> Array:
    """Resizes the summary of the whole image to the rows and columns of the array."""
    height, width = shape
    small = region.reduced(reductions)
    summary = resize_axis(summary, 2, width, small.width, region.width, jnp.int32(0))
    return resize_axis(summary, 1, height, small.height, region.image_height, region.first_row)


def _enhance(enhancement: SpatialEnhancementExpertise, x: Array, region: ValidRegion) -> Array:
    query, value = jnp.split(gelu(enhancement.to_query_value(x)), 2, axis=-1)
    return enhancement.project(_striped(enhancement.striped, query, region) * value)


def _striped(striped: StripedConvolution, x: Array, region: ValidRegion) -> Array:
    return striped.column(mask_outside(striped.row(mask_outside(x, region)), region))


def _feed_forward(layer: GatedFeedForward, x: Array, region: ValidRegion) -> Array:
    values, gate = jnp.split(gelu(layer.expand(x)), 2, axis=-1)
    return gelu(layer.project(values * layer.gate(mask_outside(gate, region))))
