"""Loads and saves weights in the formats of PyTorch, safetensors and Hugging Face, and finds their configuration."""

from seemore_jax.porting.errors import WeightsError
from seemore_jax.porting.weights import StoredWeights, load, read_weights, save

__all__ = ["StoredWeights", "WeightsError", "load", "read_weights", "save"]
