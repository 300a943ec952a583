"""Draws the choices of the routers: the experts of each image and their probabilities, layer by layer."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from seemore_jax.network import Routing


@dataclasses.dataclass(frozen=True)
class Routes:
    """The choices of a network's routers for one image.

    Attributes:
      name: the name of the image.
      image: the image that is shown in the figure, uint8 (H, W, 3).
      experts: the indices of the chosen experts in each layer (residual group), (layers, topk).
      probabilities: the probabilities of all experts in each layer, (layers, num_experts).
    """

    name: str
    image: UInt8[np.ndarray, "h w 3"]
    experts: Int[np.ndarray, "layers topk"]
    probabilities: Float[np.ndarray, "layers num_experts"]

    @classmethod
    def of(cls, name: str, image: UInt8[np.ndarray, "h w 3"], routing: Routing) -> "Routes":
        """Makes the routes of one image.

        Args:
          name: the name of the image.
          image: the image that is shown in the figure, uint8 (H, W, 3).
          routing: the choices for a batch of this one image.

        Returns:
          The routes of the image.
        """
        return cls(name, image, np.asarray(routing.experts)[0], np.asarray(routing.probabilities)[0])


def routes_figure(routes: Sequence[Routes], ranks: Sequence[int]) -> Figure:
    """Draws one row for each image: the image, and a table with a column for each layer and a row for each expert.

    The colour and the number in a cell are the probability of the expert. The chosen experts have a frame.

    Args:
      routes: the routes of at least one image, all from the same network.
      ranks: the ranks of the network's experts.

    Returns:
      The figure, which is not saved yet.
    """
    layers = len(routes[0].experts)
    size = (2.2 + 0.55 * layers, (0.45 * len(ranks) + 0.5) * len(routes) + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(routes), 2, squeeze=False, width_ratios=(1.8, 0.5 * layers))
    for (picture, table), route in zip(axes, routes, strict=True):
        picture.imshow(route.image)
        picture.set(xticks=[], yticks=[])
        picture.set_ylabel(route.name, fontsize="small")
        shown = table.imshow(route.probabilities.T, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        table.set_xticks(range(layers), [str(layer + 1) for layer in range(layers)])
        table.set_yticks(range(len(ranks)), [f"rank {rank}" for rank in ranks])
        for layer, expert in np.ndindex(route.probabilities.shape):
            probability = route.probabilities[layer, expert]
            color = "black" if probability > 0.6 else "white"
            table.text(layer, expert, f"{probability:.2f}", ha="center", va="center", color=color, fontsize="x-small")
            if expert in route.experts[layer]:
                corner = (layer - 0.47, expert - 0.47)
                table.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="tab:red", linewidth=2))
    axes[-1, 1].set_xlabel("layer")
    axes[0, 1].set_title("probability of each expert; chosen: framed", fontsize="small")
    figure.colorbar(shown, ax=axes[:, 1], pad=0.01)
    return figure
