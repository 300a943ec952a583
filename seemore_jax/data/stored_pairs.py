"""Prepared training sets: pairs of encoded LR and HR images, read by number from a TFDS dataset, and their decoding."""

import io
import os
from pathlib import Path
from typing import Protocol, TypedDict, runtime_checkable

import imagecodecs
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from seemore_jax.data.datasets import BUILDERS
from seemore_jax.data.images import to_rgb8
from seemore_jax.system.errors import InputError, one_line

_PNG = b"\x89PNG\r\n\x1a\n"
_INFO_FILE = "dataset_info.json"


class StoredPair(TypedDict):
    """A pair as stored in a training set.

    Keys:
      lr: the bytes of the LR image's file, usually PNG.
      hr: the bytes of the HR image's file.
    """

    lr: bytes
    hr: bytes


@runtime_checkable
class PairSource(Protocol):
    """A sequence of stored pairs with random access."""

    def __len__(self) -> int:
        """Returns the number of pairs."""
        ...

    def __getitem__(self, index: int, /) -> StoredPair:
        """Returns a pair by its number, from 0."""
        ...


class TfdsSource:
    """The training split of a prepared TFDS dataset, with encoded images. It can be pickled for worker processes."""

    def __init__(self, folder: Path) -> None:
        """Opens a dataset.

        Args:
          folder: the folder with `dataset_info.json`.

        Raises:
          InputError: the dataset is damaged, or has no training split, no features lr and hr, or no random access.
        """
        self._folder = folder
        skip = tfds.decode.SkipDecoding()
        try:
            builder = tfds.builder_from_directory(folder)
            self._require_image_features(builder.info)
            self._source = builder.as_data_source("train", decoders={"lr": skip, "hr": skip})
        except InputError:
            raise
        except Exception as error:
            # TFDS raises nearly any exception for damaged data.
            raise InputError(
                f"{folder}: not a dataset with random access to a split train ({one_line(error)})"
            ) from error

    def _require_image_features(self, info: tfds.core.DatasetInfo) -> None:
        features = dict(info.features.items())
        if not all(isinstance(features.get(name), tfds.features.Image) for name in ("lr", "hr")):
            raise InputError(f"{self._folder}: needs the image features lr and hr, has {', '.join(sorted(features))}")

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self._source)

    def __getitem__(self, index: int) -> StoredPair:
        """Returns a pair by its number, from 0.

        Raises:
          InputError: the dataset is damaged.
        """
        try:
            example = self._source[index]
        except Exception as error:
            raise InputError(f"{self._folder}: damaged ({one_line(error)}); remove it and prepare it again") from error
        return StoredPair(lr=example["lr"], hr=example["hr"])

    def __reduce__(self) -> tuple[type["TfdsSource"], tuple[Path]]:
        return TfdsSource, (self._folder,)


def open_dataset(name: str, data_dir: str | os.PathLike[str], scale: int) -> TfdsSource:
    """Opens a prepared training set.

    Args:
      name: a dataset that `prepare` writes, such as "div2k", or any TFDS dataset with the image features lr and hr, as
        NAME or NAME/CONFIG.
      data_dir: the folder of the datasets.
      scale: the factor between the sides of HR and of LR.

    Returns:
      The newest version of the dataset, with encoded images.

    Raises:
      InputError: the dataset is missing (the message says how to prepare it), damaged, or of another scale.
    """
    candidates = [name] if "/" in name else [f"{name}/x{scale}", name]
    folders = (_newest_version(Path(data_dir) / candidate) for candidate in candidates)
    folder = next((folder for folder in folders if folder is not None), None)
    if folder is None:
        raise InputError(f"{Path(data_dir) / candidates[0]}: no prepared dataset; {_advice(name, data_dir, scale)}")
    source = TfdsSource(folder)
    decode_pair(source[0], scale)  # so that a wrong scale is refused before anything is compiled
    return source


def _newest_version(folder: Path) -> Path | None:
    versions = [path.parent.name for path in folder.glob(f"*/{_INFO_FILE}")]
    valid = [tfds.core.Version(version) for version in versions if tfds.core.Version.is_valid(version)]
    return folder / str(max(valid)) if valid else None


def _advice(name: str, data_dir: str | os.PathLike[str], scale: int) -> str:
    dataset, _, config = name.partition("/")
    if dataset not in BUILDERS:
        return f"name your own dataset as NAME or NAME/CONFIG, or take one of {', '.join(BUILDERS)}"
    files = {"df2k": " --manual_dir=FOLDER", "image_folder": " --source=FOLDER"}.get(dataset, "")
    wanted = config.removeprefix("x") or scale
    return f"run: python -m seemore_jax prepare {dataset} --data_dir={os.fspath(data_dir)} --scale {wanted}{files}"


def decode_pair(pair: StoredPair, scale: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "sh sw 3"]]:
    """Decodes both images of a stored pair to RGB.

    Args:
      pair: the stored pair.
      scale: the factor between the sides of HR and of LR.

    Returns:
      LR (H, W, 3) and HR (scale·H, scale·W, 3), uint8.

    Raises:
      InputError: an image is damaged, or HR is not `scale` times LR.
    """
    lr, hr = _decode(pair["lr"]), _decode(pair["hr"])
    if hr.shape[:2] != (lr.shape[0] * scale, lr.shape[1] * scale):
        raise InputError(
            f"dataset: HR of {hr.shape[1]}×{hr.shape[0]} is not {scale} times LR of {lr.shape[1]}×{lr.shape[0]}; "
            "is it of another scale?"
        )
    return lr, hr


def read_lr_size(pair: StoredPair) -> tuple[int, int]:
    """Reads the size of a pair's LR image from the header of its file, without decoding it.

    Args:
      pair: the stored pair.

    Returns:
      The height and the width in pixels.

    Raises:
      InputError: the file is not an image, or its header is damaged.
    """
    try:
        with Image.open(io.BytesIO(pair["lr"])) as image:
            return image.height, image.width
    except Exception as error:
        raise _damaged(error) from error


def _decode(data: bytes) -> np.ndarray:
    try:
        if data.startswith(_PNG):
            return to_rgb8(np.asarray(imagecodecs.png_decode(data)))
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        # Decoders raise nearly any exception for damaged data.
        raise _damaged(error) from error


def _damaged(error: Exception) -> InputError:
    return InputError(f"dataset: a damaged image ({one_line(error)}); prepare it again")
