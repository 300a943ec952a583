"""What the routers chose."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Routing(NamedTuple):
    """What the routers chose: one choice for each image (N) and residual group.

    In a single layer the `groups` axis is absent.

    Attributes:
      experts: indices of the chosen experts, most probable first; of equally probable ones the lowest index
        (PyTorch leaves that open).
      probabilities: the router's softmax over all experts, float32.
    """

    experts: Int[Array, "n *groups topk"]
    probabilities: Float[Array, "n *groups num_experts"]
