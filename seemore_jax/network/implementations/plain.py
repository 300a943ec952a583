"""The residual groups one after the other, each as it reads in `seemore_jax.network.seemore`: the reference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.extent import Extent
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
