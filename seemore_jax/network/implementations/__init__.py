"""How the residual groups are computed: one module for each backend that has a faster way, chosen here.

Each has a function `apply_groups` of one signature and one meaning, that of `plain`, against which its values and
gradients are tested. It takes the network's modules for their parameters only.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jaxtyping import Array, Float

from seemore_jax.devices import target_backend
from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import cpu, plain
from seemore_jax.network.routing import Routing

if TYPE_CHECKING:
    from seemore_jax.network.seemore import ResidualGroup

ApplyGroups = Callable[
    [Sequence["ResidualGroup"], Float[Array, "n h w c"], SeemoReConfig], tuple[Float[Array, "n h w c"], Routing]
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
