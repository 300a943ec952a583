"""SeemoRe: the network, its hyperparameters, its layers, and its implementations for different devices."""

from typing import TYPE_CHECKING

from seemore_jax.system.lazy_imports import lazy_names

if TYPE_CHECKING:
    from seemore_jax.network.config import SeemoReConfig
    from seemore_jax.network.model import SeemoRe
    from seemore_jax.network.routing import Routing
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "Routing": "seemore_jax.network.routing",
            "SeemoRe": "seemore_jax.network.model",
            "SeemoReConfig": "seemore_jax.network.config",
        },
    )

__all__ = ["Routing", "SeemoRe", "SeemoReConfig"]
