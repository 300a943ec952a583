"""The plain implementation: the layers of `seemore_jax.network.seemore` as XLA compiles them.

It works on every backend, and all others are tested against it. Images that fill only a part of their arrays are left
to `padded`.
"""

from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import padded
from seemore_jax.network.routing import Routing, stack_routings
from seemore_jax.network.seemore import ResidualGroup, SeemoReNetwork
from seemore_jax.network.valid_region import ValidRegion

# Applies all residual groups: groups, features, configuration → features, routing.
ApplyGroups = Callable[[Sequence[ResidualGroup], Array, SeemoReConfig], tuple[Array, Routing]]


def apply_groups(
    groups: Sequence[ResidualGroup], x: Float[Array, "n h w c"], config: SeemoReConfig
) -> tuple[Float[Array, "n h w c"], Routing]:
    """Returns the features after all groups, and the routing with a `groups` axis."""
    routings = []
    for group in groups:
        x, routing = (jax.checkpoint(group) if config.rematerialize else group)(x)
        routings.append(routing)
    return x, stack_routings(routings)


def apply_network(
    model: SeemoReNetwork,
    lr: Float[Array, "n h w 3"],
    region: ValidRegion | None = None,
    *,
    groups: ApplyGroups = apply_groups,
) -> tuple[Float[Array, "n sh sw 3"], Routing]:
    """Computes `SeemoReNetwork.__call__`.

    Args:
      model: the network.
      lr: images with values in [0, 1].
      region: the part of `lr` that the images fill; None if they fill all of it.
      groups: applies the residual groups.

    Returns:
      The upscaled images, and the routing with a `groups` axis.
    """
    if region is not None:
        return padded.apply_network(model, lr, region)
    shallow = model.extract(lr)
    x, routing = groups(model.groups, shallow, model.config)
    return model.reconstruct(x, shallow), routing
