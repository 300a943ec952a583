"""Plain implementation: the layers of `seemore_jax.network.seemore`, compiled by XLA.

It works on every backend and is the reference for all other implementations. The module `padded` computes images that
are only a part of their arrays.
"""

from collections.abc import Sequence

import jax
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import padded
from seemore_jax.network.routing import Routing, stack_routings
from seemore_jax.network.seemore import ResidualGroup, SeemoReNetwork
from seemore_jax.network.valid_region import ValidRegion


def apply_groups(
    groups: Sequence[ResidualGroup], x: Float[Array, "n h w c"], config: SeemoReConfig
) -> tuple[Float[Array, "n h w c"], Routing]:
    """Applies all residual groups.

    Args:
      groups: residual groups.
      x: shallow features.
      config: configuration of the network.

    Returns:
      The features after all groups, and the routing with a `groups` axis.
    """
    routings = []
    for group in groups:
        x, routing = (jax.checkpoint(group) if config.rematerialize else group)(x)
        routings.append(routing)
    return x, stack_routings(routings)


def apply_network(
    model: SeemoReNetwork,
    lr: Float[Array, "n h w 3"],
    region: ValidRegion | None = None,
) -> tuple[Float[Array, "n sh sw 3"], Routing]:
    """Computes `SeemoReNetwork.__call__`.

    Args:
      model: network.
      lr: low-resolution images with values in [0, 1].
      region: valid region of `lr`; None if the images fill the array.

    Returns:
      float32 images of s times the size, and the routing with a `groups` axis. Pixels outside of the valid region are
      arbitrary.
    """
    if region is not None:
        return padded.apply_network(model, lr, region)
    shallow = model.extract(lr)
    x, routing = apply_groups(model.groups, shallow, model.config)
    return model.reconstruct(x, shallow), routing
