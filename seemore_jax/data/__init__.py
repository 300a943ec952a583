"""Reads and writes images, resizes them as MATLAB does, and prepares and reads benchmark and training sets."""

from typing import TYPE_CHECKING

from seemore_jax.system.lazy_imports import lazy_names

if TYPE_CHECKING:
    from seemore_jax.data.formats import ImageError
    from seemore_jax.data.image_writing import write_image
    from seemore_jax.data.images import read_image
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "ImageError": "seemore_jax.data.formats",
            "read_image": "seemore_jax.data.images",
            "write_image": "seemore_jax.data.image_writing",
        },
    )

__all__ = ["ImageError", "read_image", "write_image"]
