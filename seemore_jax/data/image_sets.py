"""Finds image sets in folders and files.

SET/HR/*.png, optionally SET/LR_bicubic/X4/NAMEx4.png       a set of HR images, with LR images if there are some
FOLDER/*.png                                                a flat folder of HR images
FOLDER/SET/…                                                a folder of sets
a.png b.jpg                                                 HR images, which together are the set "images"
"""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from seemore_jax.data.degradation import FixedDegradation
from seemore_jax.data.image_pairs import ImagePair
from seemore_jax.data.images import SUFFIXES
from seemore_jax.system.errors import InputError


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A named set of image pairs.

    Attributes:
      name: the name of the set's folder.
      pairs: the image pairs, sorted by name.
    """

    name: str
    pairs: tuple[ImagePair, ...]

    def degraded(self, degradation: FixedDegradation) -> "ImageSet":
        """Returns the set with a degradation of its LR images.

        Args:
          degradation: what happens to each LR image when it is read.
        """
        pairs = (dataclasses.replace(pair, degradation=degradation) for pair in self.pairs)
        return ImageSet(self.name, tuple(pairs))


def find_image_sets(paths: Iterable[str | os.PathLike[str]], scale: int) -> list[ImageSet]:
    """Finds the image sets in folders and files, without reading the images.

    Args:
      paths: each path is a flat folder of images, a set, a folder of sets, or an image file.
      scale: the factor between the sides of HR and of LR, which decides which LR files belong to the sets.

    Returns:
      The sets in the order of `paths`. All image files together are the last set, with the name "images".

    Raises:
      InputError: a path is missing, a folder has no images, two sets have the same name, or two images of one set have
        the same name.
    """
    sets: list[ImageSet] = []
    files: list[Path] = []
    for folder in map(Path, paths):
        if folder.is_file() and folder.suffix.lower() in SUFFIXES:
            files.append(folder)
            continue
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder or image")
        found = [_image_set(path, scale) for path in _set_folders(folder)]
        if not found:
            raise InputError(f"{folder}: no images here, neither in HR/ nor in subfolders ({', '.join(SUFFIXES)})")
        sets += found
    if files:
        _require_unique([file.stem for file in files], "two images are called")
        sets.append(ImageSet("images", tuple(ImagePair(file.stem, file, None) for file in files)))
    _require_unique([image_set.name for image_set in sets], "two sets are called")
    return sets


def _set_folders(folder: Path) -> list[Path]:
    if _images(folder) or _images(folder / "HR"):
        return [folder]
    return [child for child in sorted(folder.iterdir()) if child.is_dir() and (_images(child) or _images(child / "HR"))]


def _image_set(folder: Path, scale: int) -> ImageSet:
    name = folder.resolve().name
    hr_files = _images(folder / "HR") or _images(folder)
    _require_unique([file.stem for file in hr_files], f"{folder}: two images are called")
    lr_files = {file.stem: file for file in _images(folder / "LR_bicubic" / f"X{scale}")}
    return ImageSet(name, tuple(ImagePair(hr.stem, hr, _lr_file(hr.stem, lr_files, scale)) for hr in hr_files))


def _lr_file(stem: str, lr_files: dict[str, Path], scale: int) -> Path | None:
    # The names in DIV2K and Set5, in Manga109, and in SelfExSR (…_HR, …_LR); at last, the unchanged name.
    candidates = (f"{stem}x{scale}", f"{stem}_LRBI_x{scale}", f"{stem.removesuffix('_HR')}_LR", stem)
    return next((lr_files[name] for name in candidates if name in lr_files), None)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return sorted(file for file in files if file.is_file())


def _require_unique(names: list[str], message: str) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{message} {repeated[0]}")
