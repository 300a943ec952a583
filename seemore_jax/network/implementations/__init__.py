"""How the network is computed: a module for each backend that has a faster way, and the choice between them.

Each implementation has a function `apply_network` with the signature and the meaning of `plain.apply_network`, against
which its values and gradients are tested. It reads the network's parameters and never calls its layers' `__call__`.
Some also compute the network in steps (`NetworkSteps`), which can be applied to one strip of an image after the other.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import cpu, padded, plain, self_check
from seemore_jax.network.routing import Routing
from seemore_jax.network.seemore import ResidualGroup, SeemoReNetwork
from seemore_jax.network.valid_region import ValidRegion
from seemore_jax.system.devices import is_compiling_ahead, target_backend

ApplyNetwork = Callable[
    [SeemoReNetwork, Float[Array, "n h w 3"], ValidRegion | None],
    tuple[Float[Array, "n sh sw 3"], Routing],
]


def chosen_implementation(config: SeemoReConfig) -> ApplyNetwork:
    """Returns the implementation that `config.implementation` names; for "auto", that of the current backend.

    Before a fused implementation is used on a kind of device for the first time, it is compared there with the plain
    one (`self_check`). If they differ, "auto" means the plain one.

    Raises:
      InputError: `config` names an implementation that differs from the plain one here.
    """
    name, apply_network = fused_implementation(config)
    if is_compiling_ahead() or config.implementation == "plain":
        return apply_network
    if name == "plain":
        self_check.announce_plain(config)
        return apply_network
    # The CPU's kernels for gradients are compiled, and checked, only where a gradient is taken.
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
        from seemore_jax.network.implementations import tpu  # only TPUs need Pallas, which is slow to import

        return name, tpu.apply_network
    return "plain", plain.apply_network


@runtime_checkable
class NetworkSteps(Protocol):
    """The network in steps, which take a strip of an image as well as the whole image.

    Between `global_statistics` and `modulate`, the router chooses and the context is summarised: both need the whole
    image. `padded` documents the steps.
    """

    image_layout: Callable[[tuple[int, ...], SeemoReConfig, ValidRegion], Any]
    extract: Callable[[SeemoReNetwork, Array, Any], Array]
    embed: Callable[[ResidualGroup, Array, Any], Array]
    global_statistics: Callable[[ResidualGroup, Array, Any], tuple[Array, Array]]
    summarize: Callable[[ResidualGroup, Array, Any], Array]
    modulate: Callable[[ResidualGroup, Array, Array, Array, Routing, Any], Array]
    reconstruct: Callable[[SeemoReNetwork, Array, Array, Any], Array]


def chosen_steps(config: SeemoReConfig) -> NetworkSteps:
    """Returns the steps of `chosen_implementation`; those of `padded` where it has none."""
    return cpu if chosen_implementation(config) is cpu.apply_network else padded
