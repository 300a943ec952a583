"""SeemoRe: the network, its hyperparameters, its layers, and its implementations for different devices."""

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.model import SeemoRe
from seemore_jax.network.routing import Routing

__all__ = ["Routing", "SeemoRe", "SeemoReConfig"]
