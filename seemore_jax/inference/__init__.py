"""Upscaling images with a trained network."""

from seemore_jax.inference.upscaling import upscale

__all__ = ["upscale"]
