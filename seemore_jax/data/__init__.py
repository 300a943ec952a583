"""Reads and writes images, resizes them as MATLAB does, and prepares and reads benchmark and training sets."""

from seemore_jax.data.image_writing import write_image
from seemore_jax.data.images import ImageError, read_image
from seemore_jax.data.imresize import imresize

__all__ = ["ImageError", "imresize", "read_image", "write_image"]
