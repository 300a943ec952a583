"""This module defines what the routers return."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Routing(NamedTuple):
    """A routing holds what the routers chose: experts for each image (N) and residual group (paper, section 3.3).

    The routing of a single layer has no `groups` axis.

    Attributes:
      experts: indices of the chosen experts, the most probable one first. Of equally probable experts, the one with the
        lowest index is first (PyTorch does not specify the order).
      probabilities: probabilities of all experts, the softmax of the router's logits, float32.
    """

    experts: Int[Array, "n *groups topk"]
    probabilities: Float[Array, "n *groups num_experts"]


def stack_routings(routings: Sequence[Routing]) -> Routing:
    """Returns the routings of the residual groups as one routing with a `groups` axis.

    Args:
      routings: one routing for each group, with the shapes (N, …).
    """
    return jax.tree.map(lambda *layers: jnp.stack(layers, axis=1), *routings)
