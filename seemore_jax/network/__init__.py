"""The network: its configuration, its layers, and SeemoRe itself."""

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.model import SeemoRe
from seemore_jax.network.routing import Routing

__all__ = ["Routing", "SeemoRe", "SeemoReConfig"]
