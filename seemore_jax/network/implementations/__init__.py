"""How the residual groups are computed: one module for each backend that has a faster way, chosen here.

Each has a function `apply_groups` of one signature and one meaning, that of `plain`, against which its values and
gradients are tested. It takes the network's modules for their parameters only. Some do it in steps (`Stages`), which
can be done to one part of an image after the other.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from seemore_jax.devices import target_backend
from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.extent import Extent
from seemore_jax.network.implementations import cpu, plain
from seemore_jax.network.routing import Routing

if TYPE_CHECKING:
    from seemore_jax.network.seemore import ResidualGroup

ApplyGroups = Callable[
    [Sequence["ResidualGroup"], Float[Array, "n h w c"], SeemoReConfig, Extent | None],
    tuple[Float[Array, "n h w c"], Routing],
]


def chosen_implementation(config: SeemoReConfig) -> ApplyGroups:
    """The implementation that `config.implementation` names; for "auto" that of the backend it is for."""
    name = target_backend() if config.implementation == "auto" else config.implementation
    if name == "cpu" and cpu.supports(config):
        return cpu.apply_groups
    if name == "tpu":
        from seemore_jax.network.implementations import tpu  # Pallas takes a while to import, and only TPUs need it

        return tpu.apply_groups
    return plain.apply_groups


@runtime_checkable
class Stages(Protocol):
    """A residual group in steps, each of which takes part of an image as well as the whole.

    Between them are what only a whole image has: the router's choice, from the sums that `survey` returns, and the
    context's summary, from what `reduce` leaves of it.
    """

    # The attributes are the functions of `plain`, which say what each is.
    place: Callable[[tuple[int, ...], SeemoReConfig, Extent], Any]
    enter: Callable[[Array], Array]
    leave: Callable[[Array, int], Array]
    embed: Callable[["ResidualGroup", Array, Any], Array]
    separate: Callable[["ResidualGroup", Array, Any], tuple[Array, Array, Array]]
    survey: Callable[["ResidualGroup", Array, Any], tuple[Array, Array]]
    reduce: Callable[["ResidualGroup", Array, Any], Array]
    modulate: Callable[["ResidualGroup", Array, Array, Array, Array, Routing, Any], Array]


def chosen_stages(config: SeemoReConfig) -> Stages:
    """The implementation that has the steps of `chosen_implementation`; the plain one where that has none."""
    return cpu if chosen_implementation(config) is cpu.apply_groups else plain
