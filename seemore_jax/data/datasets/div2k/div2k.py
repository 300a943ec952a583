"""DIV2K consists of 800 photographs of 2K size, from the official archives."""

import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds

from seemore_jax.data.datasets.paired_images import PairedImages
from seemore_jax.data.datasets.pairs import TrainingPair
from seemore_jax.data.image_pairs import ZipMember

_ARCHIVES = "https://data.vision.ee.ethz.ch/cvl/DIV2K"


class Div2k(PairedImages):
    """The builder of DIV2K's training images, with the LR images that are published with them."""

    DESCRIPTION = "DIV2K's 800 training images and their MATLAB-bicubic LR, cut into overlapping tiles."
    HOMEPAGE = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"

    def find_pairs(self, dl_manager: tfds.download.DownloadManager) -> list[TrainingPair]:
        """Finds the pairs in the archives, and downloads missing archives; see `PairedImages.find_pairs`."""
        return div2k_pairs(dl_manager, self.scale)


def div2k_pairs(dl_manager: tfds.download.DownloadManager, scale: int) -> list[TrainingPair]:
    """Finds the pairs in DIV2K's archives: 0001.png in one archive, 0001x4.png in the other.

    Args:
      dl_manager: the download manager of TFDS, which downloads missing archives.
      scale: the factor between the sides of HR and of LR: 2, 3 or 4.

    Returns:
      The pairs, sorted by name. A missing LR image is reported when the pair is read.
    """
    names = {"hr": "DIV2K_train_HR.zip", "lr": f"DIV2K_train_LR_bicubic_X{scale}.zip"}
    archives = dl_manager.download({key: f"{_ARCHIVES}/{name}" for key, name in names.items()})
    hr_files, lr_files = (_png_files(Path(archives[key])) for key in ("hr", "lr"))
    lr_by_stem = {PurePosixPath(file.member).stem: file for file in lr_files}
    pairs = []
    for hr in hr_files:
        stem = PurePosixPath(hr.member).stem
        missing = ZipMember(Path(archives["lr"]), f"{stem}x{scale}.png")  # reading it raises an error with this name
        pairs.append(TrainingPair(stem, hr, lr_by_stem.get(f"{stem}x{scale}", missing)))
    return pairs


def _png_files(archive: Path) -> Iterable[ZipMember]:
    with zipfile.ZipFile(archive) as opened:
        return [ZipMember(archive, name) for name in sorted(opened.namelist()) if name.endswith(".png")]
