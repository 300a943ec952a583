"""The image pairs of a training set, and the check of each pair before anything is written."""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from seemore_jax.data.image_pairs import ImagePair
from seemore_jax.data.imresize import imresize
from seemore_jax.system.errors import InputError


@dataclasses.dataclass(frozen=True)
class TrainingPair(ImagePair):
    """An image pair for training: if it has an LR image, HR must have exactly `scale` times the size of LR.

    The images of training sets are cropped to such sizes, so another size means that the files do not belong together.

    Attributes:
      halve: whether HR is MATLAB's bicubic reduction of its file to half the size. The reduction removes the block
        artefacts of camera JPEGs.
    """

    halve: bool = False

    LARGEST_REMAINDER: ClassVar[int | None] = 0

    def read_hr(self) -> UInt8[np.ndarray, "sh sw 3"]:
        """Reads the HR image as RGB, at half its size if `halve` is set; see `ImagePair.read_hr`."""
        hr = super().read_hr()
        return imresize(hr, 1 / 2) if self.halve else hr


def find_defects(pairs: dict[int, TrainingPair]) -> dict[int, str]:
    """Finds out which pairs of one HR image cannot be used.

    Args:
      pairs: pairs by scale, all with the same HR image.

    Returns:
      An error message for each scale whose pair cannot be used.
    """
    found = {}
    try:
        hr = next(iter(pairs.values())).read_hr()
    except InputError as error:
        return dict.fromkeys(pairs, str(error))
    for scale, pair in pairs.items():
        try:
            pair.read_lr(hr, scale)
        except InputError as error:
            found[scale] = str(error)
    return found
