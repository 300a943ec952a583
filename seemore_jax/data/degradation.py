"""Degradations of LR images: what training adds to the bicubic reduction, and what evaluation measures."""

import dataclasses
import re

import numpy as np
from jaxtyping import UInt8

from seemore_jax.data.jpeg import SUBSAMPLINGS, compress
from seemore_jax.system.errors import InputError

DEGRADATIONS = ("bicubic", "jpeg")
# The number that means: this patch stays as it is.
CLEAN = 0


@dataclasses.dataclass(frozen=True)
class JpegDegradation:
    """JPEG compression of training patches, with a random quality and chroma subsampling for each patch.

    Attributes:
      qualities: lowest and highest quality of libjpeg, 1 to 100; all between them are equally probable.
      subsamplings: names of the chroma subsamplings, as in `SUBSAMPLINGS`; all are equally probable.
      clean_share: probability that a patch is not compressed, 0 to 1.

    Raises:
      InputError: a value is out of its range.
    """

    qualities: tuple[int, ...]
    subsamplings: tuple[str, ...]
    clean_share: float

    def __post_init__(self) -> None:
        if len(self.qualities) != 2 or not 1 <= self.qualities[0] <= self.qualities[1] <= 100:
            raise InputError(f"config: jpeg_quality must be (lowest, highest) within 1 and 100, not {self.qualities}")
        if not self.subsamplings or not set(self.subsamplings) <= set(SUBSAMPLINGS):
            raise InputError(
                f"config: jpeg_subsampling must be some of {', '.join(SUBSAMPLINGS)}, not {self.subsamplings}"
            )
        if not 0 <= self.clean_share <= 1:
            raise InputError(f"config: jpeg_clean_share must be in [0, 1], not {self.clean_share}")

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draws quality and subsampling of a patch.

        Args:
          rng: the patch's own random numbers.

        Returns:
          The quality, or `CLEAN`, and an index into `SUBSAMPLINGS`.
        """
        is_clean = rng.random() < self.clean_share
        quality = int(rng.integers(self.qualities[0], self.qualities[1] + 1))
        subsampling = SUBSAMPLINGS.index(self.subsamplings[int(rng.integers(len(self.subsamplings)))])
        return (CLEAN if is_clean else quality), subsampling


@dataclasses.dataclass(frozen=True)
class FixedDegradation:
    """The degradation of LR images in an evaluation.

    Attributes:
      quality: quality of the JPEG file in which libjpeg stores the LR image (with 4:2:0); None: it is not stored.
    """

    quality: int | None = None

    @classmethod
    def of(cls, text: str) -> "FixedDegradation":
        """Parses "bicubic" or "jpeg:QUALITY".

        Args:
          text: as the user gives it.

        Raises:
          InputError: it is neither.
        """
        if text == "bicubic":
            return cls()
        match = re.fullmatch(r"jpeg:(\d{1,3})", text)
        if not match or not 1 <= int(match[1]) <= 100:
            raise InputError(f"degradation: expected bicubic or jpeg:QUALITY with a quality of 1 to 100, not {text!r}")
        return cls(int(match[1]))

    def apply(self, lr: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Degrades an LR image.

        Args:
          lr: RGB.
        """
        return lr if self.quality is None else compress(lr, self.quality)


# The degradation that leaves LR images as they are.
UNCHANGED = FixedDegradation()
