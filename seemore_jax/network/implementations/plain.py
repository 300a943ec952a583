"""The network as it reads in `seemore_jax.network.seemore`, one residual group after the other: the reference.

Below, the same in the steps of `Stages`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.extent import Extent, inside, total
from seemore_jax.network.routing import Routing

if TYPE_CHECKING:
    from seemore_jax.network.seemore import ResidualGroup, SeemoRe


def apply_network(
    model: "SeemoRe",
    lr: Float[Array, "n h w 3"],
    extent: Extent | None = None,
    *,
    groups: Callable[..., tuple[Array, Routing]] | None = None,
) -> tuple[Float[Array, "n sh sw 3"], Routing]:
    """The image, and the routing with a `groups` axis; with residual groups as `groups` applies them."""
    shallow = model.extract(lr, extent)
    x, routing = (groups or apply_groups)(model.groups, shallow, model.config, extent)
    return model.reconstruct(x, shallow, extent), routing


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


def extract(model: "SeemoRe", lr: Float[Array, "n h w 3"], extent: Extent) -> Array:
    """The shallow features."""
    return model.extract(lr, extent)


def embed(group: "ResidualGroup", x: Array, extent: Extent) -> Array:
    """The dense convolution that a residual group begins with, of LN(x)."""
    local = group.rank_modulating
    return local.mixture_block.embed(inside(local.norm_1(x), extent))


def survey(group: "ResidualGroup", embedded: Array, extent: Extent) -> tuple[Float[Array, "n c"], Array]:
    """What the routing takes: the sum of the features over the pixels that count, and the context.

    The context is what its first reduction leaves of it, if it has any: (N, H/4, W/4, C).
    """
    block = group.rank_modulating.mixture_block
    features, context = block.separate(embedded, extent)
    return total(features, extent), block.reduce(context) if block.recursive else context


def summarize(group: "ResidualGroup", reduced: Float[Array, "n h w c"], extent: Extent) -> Array:
    """The context's summary as `modulate` takes it, from what `survey` left of the whole image's context."""
    block = group.rank_modulating.mixture_block
    for _ in range(1, block.recursive):
        reduced = block.reduce(reduced)
    return block.mix_summary(reduced, extent)


def modulate(
    group: "ResidualGroup",
    x: Array,
    embedded: Array,
    summary: Array,
    routing: Routing,
    extent: Extent,
) -> Array:
    """All that comes after the routing, for which features and context are made once more."""
    local = group.rank_modulating
    block = local.mixture_block
    features, context = block.separate(embedded, extent)
    context = context + block.resize_summary(summary, context.shape[1:3], extent)
    x = x + block.project(block.mixture.mix(features, context, routing))
    x = x + local.feed_forward(local.norm_2(x), extent)
    return group.spatial_modulating(x, extent)


def reconstruct(model: "SeemoRe", x: Array, shallow: Array, extent: Extent) -> Float[Array, "n sh sw 3"]:
    """The image, from the features after all groups and those before."""
    return model.reconstruct(x, shallow, extent)
