"""The residual groups one after the other, each as it reads in `seemore_jax.network.seemore`: the reference.

Below, the same in the steps of `Stages`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.extent import Extent, inside, total
from seemore_jax.network.routing import Routing

if TYPE_CHECKING:
    from seemore_jax.network.seemore import ResidualGroup


def apply_groups(
    groups: Sequence["ResidualGroup"],
    x: Float[Array, "n h w c"],
    config: SeemoReConfig,
    extent: Extent | None = None,
) -> tuple[Float[Array, "n h w c"], Routing]:
    """The features after all groups, and the routing with a `groups` axis; of the image in `x` that `extent` says."""
    routings = []
    for group in groups:
        x, routing = jax.checkpoint(group)(x, extent) if config.rematerialize else group(x, extent)
        routings.append(routing)
    return x, stack_routings(routings)


def stack_routings(routings: Sequence[Routing]) -> Routing:
    """The routings of single groups as one, with a `groups` axis."""
    return jax.tree.map(lambda *layers: jnp.stack(layers, axis=1), *routings)


def place(shape: tuple[int, ...], config: SeemoReConfig, extent: Extent) -> Extent:
    """Where the image is in feature maps of that height and width."""
    del shape, config
    return extent


def enter(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """The layout of this implementation: that of the network."""
    return x


def leave(x: Float[Array, "n h w c"], width: int) -> Float[Array, "n h w c"]:
    """The inverse of `enter`."""
    del width
    return x


def embed(group: "ResidualGroup", x: Array, extent: Extent) -> Array:
    """The dense convolution that a residual group begins with, of LN(x)."""
    local = group.rank_modulating
    return local.mixture_block.embed(inside(local.norm_1(x), extent))


def separate(group: "ResidualGroup", embedded: Array, extent: Extent) -> tuple[Array, Array, Float[Array, "n c"]]:
    """Local features and context; and the sum of the features over the pixels that count."""
    features, context = group.rank_modulating.mixture_block.separate(embedded, extent)
    return features, context, total(features, extent)


def survey(group: "ResidualGroup", embedded: Array, extent: Extent) -> tuple[Array, Float[Array, "n c"]]:
    """Context, and the sum of the features, for the pixels that count."""
    return separate(group, embedded, extent)[1:]


def reduce(group: "ResidualGroup", context: Array, extent: Extent) -> Float[Array, "n h2 w2 c"]:
    """The context after the first of its reductions, if it has any."""
    del extent
    block = group.rank_modulating.mixture_block
    return block.reduce(context) if block.recursive else context


def modulate(
    group: "ResidualGroup",
    x: Array,
    features: Array,
    context: Array,
    summary: Float[Array, "n h2 w2 c"],
    routing: Routing,
    extent: Extent,
) -> Array:
    """All that comes after the routing."""
    local = group.rank_modulating
    block = local.mixture_block
    context = context + block.resize_summary(summary, context.shape[1:3], extent)
    x = x + block.project(block.mixture.mix(features, context, routing))
    x = x + local.feed_forward(local.norm_2(x), extent)
    return group.spatial_modulating(x, extent)
