"""Prepares a training set once: finds the images, checks all of them, and writes them cut into tiles."""

import concurrent.futures
import contextlib
import fcntl
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import absl.logging
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tqdm import tqdm

from seemore_jax.data.datasets import BUILDERS, SCALES, Div2k, ImageFolder, PairedImages
from seemore_jax.data.datasets.pairs import TrainingPair, find_defects
from seemore_jax.data.image_pairs import ZipMember
from seemore_jax.system.errors import InputError


def prepare(
    name: str,
    data_dir: str | os.PathLike[str],
    *,
    scales: Sequence[int] = SCALES,
    sources: Sequence[str | os.PathLike[str]] = (),
    halved_sources: Sequence[str | os.PathLike[str]] = (),
    manual_dir: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
) -> None:
    """Writes a training set for each scale, in the folders `data_dir`/NAME/x4 and so on.

    A set that exists already is kept, and a set appears only when it is complete. Downloaded archives are kept in
    `data_dir`/downloads. The files of an interrupted preparation are removed.

    Args:
      name: the training set: "div2k", "df2k" or "image_folder".
      data_dir: the folder of the datasets.
      scales: the factors between the sides of HR and of LR, from 2, 3 and 4.
      sources: for "image_folder", folders and files that `find_image_sets` accepts.
      halved_sources: for "image_folder", folders and files of camera JPEGs. HR is the image at half its size.
      manual_dir: the folder with Flickr2K, or with archives of DIV2K that were downloaded by hand.
      skip_bad: whether to leave out images that cannot be used, and print their number, instead of raising InputError.

    Raises:
      InputError: an option does not fit the training set, files are missing, a download fails, the disk is full,
        another preparation is writing into `data_dir`, or images cannot be used. In the last case, the message has one
        line for each image, and nothing is written.
    """
    data_dir = Path(data_dir)
    _check_options(name, scales, [*sources, *halved_sources], manual_dir)
    with _quiet_tfds():
        builders = {scale: BUILDERS[name](config=f"x{scale}", data_dir=data_dir) for scale in scales}
        missing = {scale: builder for scale, builder in builders.items() if not _is_prepared(builder)}
        if not missing:
            return
        with _preparation_lock(data_dir):
            for builder in missing.values():
                _remove_leftovers(builder, data_dir)
                if isinstance(builder, ImageFolder):
                    builder.sources = tuple(map(Path, sources))
                    builder.halved_sources = tuple(map(Path, halved_sources))
            found = _find_pairs(missing, data_dir, manual_dir)
            for scale, pairs in _usable(found, skip_bad, name).items():
                _write(missing[scale], pairs)


def _check_options(
    name: str,
    scales: Sequence[int],
    sources: Sequence[str | os.PathLike[str]],
    manual_dir: str | os.PathLike[str] | None,
) -> None:
    if name not in BUILDERS:
        raise InputError(f"{name}: no such dataset; there are {', '.join(BUILDERS)}")
    if not scales or not set(scales) <= set(SCALES):
        raise InputError(f"{name}: the scales must be from {SCALES}, not {tuple(scales)}")
    if name == "image_folder" and manual_dir is not None:
        raise InputError("image_folder: takes its images from --source, not from --manual_dir")
    if name == "image_folder" and not sources:
        raise InputError("image_folder: no images given; name folders or files, --source=FOLDER")
    if name != "image_folder" and sources:
        raise InputError(f"{name}: --source is for image_folder; {name} takes files from --manual_dir")
    if manual_dir is not None and not Path(manual_dir).is_dir():
        raise InputError(f"{manual_dir}: no such folder (--manual_dir)")


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Switches off the progress bars of TFDS, and its warnings, which concern normal situations here."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
        absl.logging.set_verbosity(verbosity)


def _is_prepared(builder: PairedImages) -> bool:
    folder = Path(builder.data_dir)
    if builder.is_prepared():
        print(f"{folder}: already prepared, {builder.info.splits['train'].num_examples} tiles; kept")
        return True
    if folder.exists():
        raise InputError(f"{folder}: exists, but is no complete dataset; remove it and start again")
    return False


@contextlib.contextmanager
def _preparation_lock(data_dir: Path) -> Iterator[None]:
    """Allows only one preparation at a time, because a second one would remove the half-written files of the first.

    Raises:
      InputError: another preparation is running.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / ".preparing").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends for any reason
        except BlockingIOError as error:
            raise InputError(f"{data_dir}: another preparation is running here; wait until it has ended") from error
        yield


def _remove_leftovers(builder: PairedImages, data_dir: Path) -> None:
    """Removes the incomplete files and downloads of a preparation that was killed."""
    leftovers = [*Path(builder.data_dir).parent.glob("incomplete.*"), *(data_dir / "downloads").glob("*.tmp.*")]
    for leftover in leftovers:
        shutil.rmtree(leftover)


def _find_pairs(
    builders: Mapping[int, PairedImages], data_dir: Path, manual_dir: str | os.PathLike[str] | None
) -> dict[int, list[TrainingPair]]:
    # One manager for all sets, so that DF2K and the three scales share the downloads.
    manager = tfds.download.DownloadManager(
        download_dir=data_dir / "downloads",
        manual_dir=manual_dir,
        manual_dir_instructions="any",  # required by TFDS, but never shown
        url_infos=Div2k.url_infos,
        force_checksums_validation=True,
    )
    tfds.enable_progress_bar()  # gigabytes may be downloaded
    try:
        return {scale: builder.find_pairs(manager) for scale, builder in builders.items()}
    except (requests.RequestException, tfds.download.DownloadError, NonMatchingChecksumError) as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"download failed: {detail}; try again, or give archives by --manual_dir") from error
    finally:
        tfds.disable_progress_bar()


def _usable(found: Mapping[int, Sequence[TrainingPair]], skip_bad: bool, name: str) -> dict[int, list[TrainingPair]]:
    """Returns the pairs that can be used, by scale.

    Raises:
      InputError: some pairs cannot be used and `skip_bad` is off, or no pair can be used.
    """
    by_image: dict[Path | ZipMember, dict[int, TrainingPair]] = {}
    for scale, pairs in found.items():
        for pair in pairs:
            by_image.setdefault(pair.hr, {})[scale] = pair
    usable: dict[int, list[TrainingPair]] = {scale: [] for scale in found}
    messages: list[str] = []
    for pairs_of_image, bad in zip(by_image.values(), _check_images(by_image.values(), name), strict=True):
        messages += dict.fromkeys(bad.values())
        for scale in pairs_of_image.keys() - bad.keys():
            usable[scale].append(pairs_of_image[scale])
    if messages and not skip_bad:
        raise InputError(
            "\n".join([f"{name}: {len(messages)} bad images (--skip_bad leaves them out), nothing written", *messages])
        )
    for scale, pairs in usable.items():
        left_out = len(found[scale]) - len(pairs)
        if not pairs:
            raise InputError(f"{name}/x{scale}: none of the {left_out} images can be used, such as {messages[0]}")
        if left_out:
            print(f"{name}/x{scale}: left out bad images: {left_out} of {len(found[scale])}")
    return usable


def _check_images(images: Iterable[dict[int, TrainingPair]], name: str) -> Iterator[dict[int, str]]:
    images = list(images)
    threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        yield from tqdm(threads.map(find_defects, images), desc=f"{name}: checking", total=len(images), unit="image")
    finally:
        threads.shutdown(cancel_futures=True)  # so that an interrupt does not wait for the queued images


def _write(builder: PairedImages, pairs: Sequence[TrainingPair]) -> None:
    builder.pairs = pairs
    folder = Path(builder.data_dir)
    try:
        # TFDS prints sizes of the dataset that are not known here.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="array_record"
            )
    except (OSError, RuntimeError) as error:  # RuntimeError: array_record reports a full disk
        detail = " ".join(str(error).split())
        raise InputError(f"{folder}: cannot be written: {detail}") from error
    print(f"{folder}: {builder.info.splits['train'].num_examples} tiles of {len(pairs)} images")
