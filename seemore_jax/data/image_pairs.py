"""Pairs of an HR image and its LR image: in files, or inside ZIP archives."""

import dataclasses
import zipfile
from pathlib import Path
from typing import ClassVar

import imagecodecs
import numpy as np
from jaxtyping import UInt8

from seemore_jax.data.degradation import UNCHANGED, FixedDegradation
from seemore_jax.data.images import ImageError, read_image, to_rgb8
from seemore_jax.data.imresize import imresize
from seemore_jax.system.errors import InputError, one_line


@dataclasses.dataclass(frozen=True)
class ZipMember:
    """A PNG file inside a ZIP archive, which is read without extracting the others.

    Attributes:
      archive: the ZIP file.
      member: the name of the PNG file inside the archive.
    """

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}: {self.member}"

    def read(self) -> np.ndarray:
        """Reads the image.

        Returns:
          The array as stored, uint8 or uint16: (H, W) for grey, (H, W, C) for colour.

        Raises:
          ImageError: the archive has no such member, or the archive or the member is damaged.
        """
        try:
            with zipfile.ZipFile(self.archive) as archive:
                return np.asarray(imagecodecs.png_decode(archive.read(self.member)))
        except KeyError as error:
            raise ImageError(f"{self}: missing in the archive") from error
        except Exception as error:
            # Decoders raise nearly any exception for damaged data.
            raise ImageError(f"{self}: not a readable image ({one_line(error)})") from error


@dataclasses.dataclass(frozen=True)
class ImagePair:
    """An HR image and the LR image that belongs to it.

    Attributes:
      name: the name of the image, unique in its set.
      hr: the HR image.
      lr: the LR image. If it is None, LR is MATLAB's bicubic reduction of HR.
      degradation: what `read` does to LR.
    """

    name: str
    hr: Path | ZipMember
    lr: Path | ZipMember | None
    degradation: FixedDegradation = dataclasses.field(default=UNCHANGED, kw_only=True)

    # How many pixels a side of HR may have beyond `scale` times the side of LR; None stands for scale − 1. Benchmark
    # sets need this, because the sides of some of their HR images are not multiples of the scale.
    LARGEST_REMAINDER: ClassVar[int | None] = None

    def read(self, scale: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "sh sw 3"]]:
        """Reads both images as RGB.

        Args:
          scale: the factor between the sides of HR and of LR, at least 1.

        Returns:
          LR (H, W, 3) and HR (scale·H, scale·W, 3), uint8. HR is cropped at the bottom and at the right if needed.

        Raises:
          InputError: an image cannot be read, HR is smaller than the scale, or LR does not belong to HR.
        """
        hr = self.read_hr()
        lr = self.read_lr(hr, scale)
        # `read_lr` has checked that HR has the size of LR, apart from a remainder smaller than the scale.
        height, width = (side // scale * scale for side in hr.shape[:2])
        hr = hr[:height, :width]
        return self.degradation.apply(imresize(hr, 1 / scale) if lr is None else lr), hr

    def read_hr(self) -> UInt8[np.ndarray, "sh sw 3"]:
        """Reads the HR image as RGB.

        Returns:
          uint8 (H, W, 3), not cropped.

        Raises:
          InputError: the image cannot be read.
        """
        return _read_rgb8(self.hr)

    def read_lr(self, hr: UInt8[np.ndarray, "sh sw 3"], scale: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """Reads the LR image as RGB, and checks that its size fits the HR image.

        Args:
          hr: the image that `read_hr` returns.
          scale: the factor between the sides of HR and of LR, at least 1.

        Returns:
          uint8 (H, W, 3), or None if the pair has no LR image.

        Raises:
          InputError: the LR image cannot be read or does not fit `hr`, or `hr` is smaller than the scale.
        """
        if min(hr.shape[:2]) < scale:
            raise InputError(f"{self.hr}: {_size(hr)} is too small for scale {scale}")
        if self.lr is None:
            return None
        lr = _read_rgb8(self.lr)
        largest = scale - 1 if self.LARGEST_REMAINDER is None else self.LARGEST_REMAINDER
        remainders = (side - scale * small for side, small in zip(hr.shape[:2], lr.shape[:2], strict=True))
        if not all(0 <= remainder <= largest for remainder in remainders):
            raise InputError(f"{self.lr}: {_size(lr)} times {scale} is not {_size(hr)}, the size of {self.hr}")
        return lr


def _read_rgb8(image: Path | ZipMember) -> np.ndarray:
    return to_rgb8(image.read() if isinstance(image, ZipMember) else read_image(image))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"
