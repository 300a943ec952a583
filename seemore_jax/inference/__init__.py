"""Upscaling of images by a trained network."""

from seemore_jax.inference.upscaling import upscale

__all__ = ["upscale"]
