"""Implementations of the network, and the choice of one of them.

An implementation is a module with a function `apply_network`, which computes the same function as
`plain.apply_network`. Tests compare its values and gradients with those of `plain`. The fused implementations, for a
CPU, a GPU and a TPU, read the parameters of the network and replace the calls of its layers by kernels. Some
implementations also compute the network in steps (`NetworkSteps`), which can be applied to one strip of an image after
the other.
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
    """Returns the implementation that computes a network on this device.

    Before the first use of a fused implementation on a kind of device, the self-check compares it with the plain
    implementation (`self_check`). If they differ, "auto" selects the plain implementation.

    Args:
      config: configuration of the network; `config.implementation` is the name of an implementation, or "auto".

    Raises:
      InputError: `config` names an implementation that failed the self-check.
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
    """Returns the name and the function of the implementation for a network, without a self-check.

    The name is "plain" if no fused implementation supports the network.

    Args:
      config: configuration of the network.
    """
    name = target_backend() if config.implementation == "auto" else config.implementation
    if name == "cpu" and cpu.supports(config):
        return name, cpu.apply_network
    # Programs for another GPU take the kernels only by name, because the self-check cannot run there.
    if name == "gpu" and not (config.implementation == "auto" and is_compiling_ahead()):
        from seemore_jax.network.implementations import gpu

        if gpu.supports(config):
            return name, gpu.apply_network
    if name == "tpu":
        from seemore_jax.network.implementations import tpu  # imports Pallas, which is slow

        return name, tpu.apply_network
    return "plain", plain.apply_network


@runtime_checkable
class NetworkSteps(Protocol):
    """Steps of the network, each of which can be applied to a whole image or to a strip of an image.

    Between `global_statistics` and `modulate`, the router chooses the experts and the context is summarized; both need
    the statistics of the whole image. The functions of the module `padded` document the steps.
    """

    image_layout: Callable[[tuple[int, ...], SeemoReConfig, ValidRegion], Any]
    extract: Callable[[SeemoReNetwork, Array, Any], Array]
    embed: Callable[[ResidualGroup, Array, Any], Array]
    global_statistics: Callable[[ResidualGroup, Array, Any], tuple[Array, Array]]
    summarize: Callable[[ResidualGroup, Array, Any], Array]
    modulate: Callable[[ResidualGroup, Array, Array, Array, Routing, Any], Array]
    reconstruct: Callable[[SeemoReNetwork, Array, Array, Any], Array]


def chosen_steps(config: SeemoReConfig) -> NetworkSteps:
    """Returns the steps of the implementation that computes a network on this device.

    Args:
      config: configuration of the network.

    Returns:
      The steps of `chosen_implementation`, or those of `padded` if it has none.
    """
    return cpu if chosen_implementation(config) is cpu.apply_network else padded
