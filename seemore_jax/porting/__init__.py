"""Weights to and from PyTorch: names and layouts, file formats, and the configuration they imply."""

from seemore_jax.porting.errors import WeightsError
from seemore_jax.porting.weights import StoredWeights, load, read_weights, save

__all__ = ["StoredWeights", "WeightsError", "load", "read_weights", "save"]
