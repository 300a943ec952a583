"""Images: files, MATLAB's bicubic, and the folders that benchmarks come in."""

from seemore_jax.data.image_writing import write_image
from seemore_jax.data.images import ImageError, read_image
from seemore_jax.data.imresize import imresize

__all__ = ["ImageError", "imresize", "read_image", "write_image"]
