"""The network: its configuration, its layers, and SeemoRe itself."""

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.routing import Routing
from seemore_jax.network.seemore import SeemoRe

__all__ = ["Routing", "SeemoRe", "SeemoReConfig"]
