"""Builds a training set from images of the user, in folders or single files."""

from pathlib import Path

import tensorflow_datasets as tfds

from seemore_jax.data.datasets.paired_images import PairedImages
from seemore_jax.data.datasets.pairs import TrainingPair
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.system.errors import InputError


class ImageFolder(PairedImages):
    """The builder of a training set from photographs of the user, and their LR images if there are some.

    Attributes:
      sources: folders and files that `find_image_sets` accepts.
      halved_sources: folders and files of camera JPEGs. HR is the image at half its size.
    """

    DESCRIPTION = "Photographs, with their LR files or MATLAB-bicubic LR, cut into overlapping tiles."
    HOMEPAGE = "https://arxiv.org/abs/2402.03412"

    sources: tuple[Path, ...] = ()
    halved_sources: tuple[Path, ...] = ()

    def find_pairs(self, dl_manager: tfds.download.DownloadManager) -> list[TrainingPair]:
        """Finds the pairs in `sources` and `halved_sources`; see `PairedImages.find_pairs`."""
        if not self.sources and not self.halved_sources:
            raise InputError("image_folder: no images given; name folders or files, --source")
        return [*self._pairs(self.sources, halve=False), *self._pairs(self.halved_sources, halve=True)]

    def _pairs(self, sources: tuple[Path, ...], *, halve: bool) -> list[TrainingPair]:
        return [
            TrainingPair(f"{image_set.name}-{pair.name}", pair.hr, None if halve else pair.lr, halve)
            for image_set in find_image_sets(sources, self.scale)
            for pair in image_set.pairs
        ]
