"""DF2K consists of DIV2K and the 2,650 photographs of Flickr2K. The published SeemoRe networks are trained on it."""

from pathlib import Path

import tensorflow_datasets as tfds

from seemore_jax.data.datasets.div2k.div2k import Div2k, div2k_pairs
from seemore_jax.data.datasets.paired_images import PairedImages
from seemore_jax.data.datasets.pairs import TrainingPair
from seemore_jax.system.errors import InputError


class Df2k(PairedImages):
    """The builder of DF2K. It downloads DIV2K, and takes Flickr2K from a folder of the user."""

    DESCRIPTION = "DIV2K's and Flickr2K's training images with MATLAB-bicubic LR, cut into overlapping tiles."
    HOMEPAGE = "https://github.com/limbee/NTIRE2017"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack Flickr2K.tar, so that manual_dir holds Flickr2K/Flickr2K_HR/000001.png …"
    url_infos = Div2k.url_infos

    def find_pairs(self, dl_manager: tfds.download.DownloadManager) -> list[TrainingPair]:
        """Finds the pairs of DIV2K and Flickr2K; see `PairedImages.find_pairs`.

        Flickr2K comes first, so that its absence is reported before DIV2K is downloaded.
        """
        flickr2k = _flickr2k_pairs(_manual_dir(dl_manager), self.scale)
        return div2k_pairs(dl_manager, self.scale) + flickr2k


def _manual_dir(dl_manager: tfds.download.DownloadManager) -> Path:
    try:
        return Path(dl_manager.manual_dir)
    except AssertionError as error:
        raise InputError(
            "df2k: no folder with Flickr2K; unpack Flickr2K.tar and name its folder with --manual_dir"
        ) from error


def _flickr2k_pairs(folder: Path, scale: int) -> list[TrainingPair]:
    """Finds the pairs in Flickr2K_HR and Flickr2K_LR_bicubic/X4, inside `folder` or its subfolder Flickr2K."""
    root = next((path for path in (folder / "Flickr2K", folder) if (path / "Flickr2K_HR").is_dir()), None)
    hr_files = sorted((root / "Flickr2K_HR").glob("*.png")) if root else []
    if root is None or not hr_files:
        raise InputError(
            f"{folder}: neither Flickr2K/Flickr2K_HR/*.png nor Flickr2K_HR/*.png; unpack Flickr2K.tar here"
        )
    lr_folder = root / "Flickr2K_LR_bicubic" / f"X{scale}"
    lr_files = {file.stem: file for file in lr_folder.glob("*.png")}
    return [TrainingPair(f"flickr2k-{hr.stem}", hr, lr_files.get(f"{hr.stem}x{scale}")) for hr in hr_files]
