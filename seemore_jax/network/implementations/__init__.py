"""How the network is computed: one module for each backend that has a faster way, chosen here.

Each has a function `apply_network` of one signature and one meaning, that of `plain`, against which its values and
gradients are tested. It takes the network for its parameters only. Some do it in steps (`Stages`), which
can be done to one part of an image after the other.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from seemore_jax.devices import is_compiling_ahead, target_backend
from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.extent import Extent
from seemore_jax.network.implementations import cpu, plain, self_check
from seemore_jax.network.routing import Routing

if TYPE_CHECKING:
    from seemore_jax.network.seemore import ResidualGroup, SeemoRe

ApplyNetwork = Callable[
    ["SeemoRe", Float[Array, "n h w 3"], Extent | None],
    tuple[Float[Array, "n sh sw 3"], Routing],
]


def chosen_implementation(config: SeemoReConfig) -> ApplyNetwork:
    """The implementation that `config.implementation` names; for "auto" that of the backend it is for.

    Before a fused implementation is used on a kind of device for the first time, it is compared there with the plain
    one (`self_check`). If they differ, "auto" is the plain one.

    Raises:
      InputError: the implementation that `config` names differs from the plain one here.
    """
    name, apply_network = fused_implementation(config)
    if is_compiling_ahead() or config.implementation == "plain":
        return apply_network
    if name == "plain":
        self_check.announce_plain(config)
        return apply_network
    # The CPU's kernels for gradients are compiled, and checked, where a gradient is taken.
    if self_check.is_usable(name, apply_network, config, gradients=name != "cpu"):
        return apply_network
    return plain.apply_network


def fused_implementation(config: SeemoReConfig) -> tuple[str, ApplyNetwork]:
    """Returns name and function of the implementation for `config`, without checking it.

    The name is "plain" where no fused implementation supports the network.
    """
    name = target_backend() if config.implementation == "auto" else config.implementation
    if name == "cpu" and cpu.supports(config):
        return name, cpu.apply_network
    if name == "tpu":
        from seemore_jax.network.implementations import tpu  # Pallas takes a while to import, and only TPUs need it

        return name, tpu.apply_network
    return "plain", plain.apply_network


@runtime_checkable
class Stages(Protocol):
    """The network in steps, each of which takes part of an image as well as the whole.

    Between `survey` and `modulate` is what only a whole image has: the router's choice, and the context's summary.
    """

    # The attributes are the functions of `plain`, which say what each is.
    place: Callable[[tuple[int, ...], SeemoReConfig, Extent], Any]
    extract: Callable[["SeemoRe", Array, Any], Array]
    embed: Callable[["ResidualGroup", Array, Any], Array]
    survey: Callable[["ResidualGroup", Array, Any], tuple[Array, Array]]
    summarize: Callable[["ResidualGroup", Array, Any], Array]
    modulate: Callable[["ResidualGroup", Array, Array, Array, Routing, Any], Array]
    reconstruct: Callable[["SeemoRe", Array, Array, Any], Array]


def chosen_stages(config: SeemoReConfig) -> Stages:
    """The implementation that has the steps of `chosen_implementation`; the plain one where that has none."""
    return cpu if chosen_implementation(config) is cpu.apply_network else plain
