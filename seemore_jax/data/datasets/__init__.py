"""TFDS builders of training sets. They write LR/HR tiles into array_record files, without TensorFlow."""

from seemore_jax.data.datasets.df2k.df2k import Df2k
from seemore_jax.data.datasets.div2k.div2k import Div2k
from seemore_jax.data.datasets.image_folder.image_folder import ImageFolder
from seemore_jax.data.datasets.paired_images import SCALES, PairedImages

BUILDERS: dict[str, type[PairedImages]] = {"div2k": Div2k, "df2k": Df2k, "image_folder": ImageFolder}

__all__ = ["BUILDERS", "SCALES", "Df2k", "Div2k", "ImageFolder", "PairedImages"]
