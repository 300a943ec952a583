"""Writing a training set once: find the images, check all of them, cut them into tiles."""

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
    """Writes the training set `name` for each scale below `data_dir`, as NAME/x4 and so on.

    Sets that are there already are kept. Downloaded archives are kept in `data_dir`/downloads; what an interrupted
    preparation left is removed. A set appears only when it is complete.

    Args:
      name: "div2k", "df2k" or "image_folder".
      data_dir: folder of the datasets.
      scales: any of 2, 3 and 4.
      sources: for "image_folder", whatever `find_image_sets` accepts.
      halved_sources: the same, for camera JPEGs: shrunk by 2 before they serve as HR.
      manual_dir: folder with Flickr2K, or with archives of DIV2K that were downloaded by hand.
      skip_bad: leave out images that cannot be used and say how many, instead of stopping.

    Raises:
      InputError: an option does not fit, files are missing, a download fails, the disk is full, another preparation
        is writing into `data_dir`, or images cannot be used. The last has one line for each image; nothing is
        written then.
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
        raise InputError(f"{name}: the scales are among {SCALES}, not {tuple(scales)}")
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
    """TFDS warns of what is normal here, and its progress bars count what nobody asked for."""
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
    """While the block runs, no other preparation can: it would take half-written files for leftovers.

    Raises:
      InputError: another one is running already.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / ".preparing").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError as error:
            raise InputError(f"{data_dir}: another preparation is running here; wait until it has ended") from error
        yield


def _remove_leftovers(builder: PairedImages, data_dir: Path) -> None:
    """Removes what a preparation that was killed has left: of this set, and of downloads."""
    leftovers = [*Path(builder.data_dir).parent.glob("incomplete.*"), *(data_dir / "downloads").glob("*.tmp.*")]
    for leftover in leftovers:
        shutil.rmtree(leftover)


def _find_pairs(
    builders: Mapping[int, PairedImages], data_dir: Path, manual_dir: str | os.PathLike[str] | None
) -> dict[int, list[TrainingPair]]:
    # One manager for all sets, so that DF2K and the three scales share what was downloaded once.
    manager = tfds.download.DownloadManager(
        download_dir=data_dir / "downloads",
        manual_dir=manual_dir,
        manual_dir_instructions="any",  # required, and shown only in a message that is replaced
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
    """The pairs that can be used, by scale.

    Raises:
      InputError: some cannot, and `skip_bad` is off; or none can.
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
            print(f"{name}/x{scale}: {left_out} bad of {len(found[scale])} images left out")
    return usable


def _check_images(images: Iterable[dict[int, TrainingPair]], name: str) -> Iterator[dict[int, str]]:
    images = list(images)
    threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        yield from tqdm(threads.map(find_defects, images), desc=f"{name}: checking", total=len(images), unit="image")
    finally:
        threads.shutdown(cancel_futures=True)  # an interrupt need not wait for all the images


def _write(builder: PairedImages, pairs: Sequence[TrainingPair]) -> None:
    builder.pairs = pairs
    folder = Path(builder.data_dir)
    try:
        # TFDS announces sizes that it does not know.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="array_record"
            )
    except (OSError, RuntimeError) as error:  # array_record reports a full disk as the latter
        detail = " ".join(str(error).split())
        raise InputError(f"{folder}: cannot be written: {detail}") from error
    print(f"{folder}: {builder.info.splits['train'].num_examples} tiles of {len(pairs)} images")
