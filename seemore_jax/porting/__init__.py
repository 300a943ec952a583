"""Loads and saves weights in the formats of PyTorch, safetensors and Hugging Face, and finds their configuration."""

from typing import TYPE_CHECKING

from seemore_jax.system.lazy_imports import lazy_names

if TYPE_CHECKING:
    from seemore_jax.porting.errors import WeightsError
    from seemore_jax.porting.weights import StoredWeights, load, read_weights, save
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "StoredWeights": "seemore_jax.porting.weights",
            "WeightsError": "seemore_jax.porting.errors",
            "load": "seemore_jax.porting.weights",
            "read_weights": "seemore_jax.porting.weights",
            "save": "seemore_jax.porting.weights",
        },
    )

__all__ = ["StoredWeights", "WeightsError", "load", "read_weights", "save"]
