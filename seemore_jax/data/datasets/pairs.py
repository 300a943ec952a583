"""The images a training set is made of, in files or in archives, and the check that they belong together."""

import dataclasses
import zipfile
from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import UInt8

from seemore_jax.data.images import ImageError, read_image, to_rgb8
from seemore_jax.data.imresize import imresize
from seemore_jax.system.errors import InputError, one_line


@dataclasses.dataclass(frozen=True)
class ZipMember:
    """A PNG within a ZIP archive, read without extracting the others."""

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}: {self.member}"

    def read(self) -> np.ndarray:
        """The image as stored.

        Raises:
          ImageError: the archive has no such member, or it is damaged.
        """
        try:
            with zipfile.ZipFile(self.archive) as archive:
                return np.asarray(imagecodecs.png_decode(archive.read(self.member)))
        except KeyError as error:
            raise ImageError(f"{self}: missing in the archive") from error
        except Exception as error:
            # Decoders raise nearly anything on damaged data.
            raise ImageError(f"{self}: not a readable image ({one_line(error)})") from error


@dataclasses.dataclass(frozen=True)
class TrainingPair:
    """An HR image and the LR image that belongs to it; without one, LR is MATLAB's bicubic of HR.

    With `halve`, HR is half the size of its file, by MATLAB's bicubic: for camera JPEGs, whose blocks go away so.
    """

    name: str
    hr: Path | ZipMember
    lr: Path | ZipMember | None
    halve: bool = False

    def read(self, scale: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "sh sw 3"]]:
        """LR and HR as RGB, HR exactly `scale` times LR.

        Raises:
          InputError: an image cannot be read, HR is smaller than the scale, or LR does not belong to HR.
        """
        hr = self.read_hr()
        lr = self.read_lr(hr, scale)
        if lr is not None:
            return lr, hr
        height, width = (side // scale * scale for side in hr.shape[:2])
        hr = hr[:height, :width]
        return imresize(hr, 1 / scale), hr

    def read_hr(self) -> UInt8[np.ndarray, "sh sw 3"]:
        """The HR image; raises InputError if it cannot be read."""
        hr = _read_rgb8(self.hr)
        return imresize(hr, 1 / 2) if self.halve else hr

    def read_lr(self, hr: UInt8[np.ndarray, "sh sw 3"], scale: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """The LR image, or None if it is to be made from `hr`.

        Raises:
          InputError: it cannot be read or has not 1/scale of the size of `hr`, or `hr` is smaller than the scale.
        """
        if self.lr is None:
            if min(hr.shape[:2]) < scale:
                raise InputError(f"{self.hr}: {_size(hr)} is too small for scale {scale}")
            return None
        lr = _read_rgb8(self.lr)
        if hr.shape[:2] != (lr.shape[0] * scale, lr.shape[1] * scale):
            raise InputError(f"{self.lr}: {_size(lr)} times {scale} is not {_size(hr)}, the size of {self.hr}")
        return lr


def find_defects(pairs: dict[int, TrainingPair]) -> dict[int, str]:
    """What is wrong with the pairs, by scale, of one HR image; empty if all can be used."""
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


def _read_rgb8(image: Path | ZipMember) -> np.ndarray:
    return to_rgb8(image.read() if isinstance(image, ZipMember) else read_image(image))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"
