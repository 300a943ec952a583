"""From a prepared training set to batches of patches: sample number i is a pure function of (seed, i).

Neither worker processes nor devices nor hosts nor interruptions change what the samples are, so that the step
number is all that a checkpoint has to know of the data.
"""

import contextlib
import dataclasses
import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

import grain
import imagecodecs
import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from jaxtyping import UInt8
from PIL import Image

from seemore_jax.data.datasets import BUILDERS
from seemore_jax.data.images import to_rgb8
from seemore_jax.system.errors import InputError, one_line

_PNG = b"\x89PNG\r\n\x1a\n"
_INFO_FILE = "dataset_info.json"
# Decoders run outside of Python's lock, so threads help; more cores than these are for worker processes.
_THREADS = 4
_BATCHES_AHEAD = 8


class Batch(NamedTuple):
    """Patches of this process: uint8 RGB, HR `scale` times LR."""

    lr: UInt8[np.ndarray, "n p p 3"]
    hr: UInt8[np.ndarray, "n sp sp 3"]


class StoredPair(TypedDict):
    """A pair as stored: the bytes of two image files."""

    lr: bytes
    hr: bytes


@runtime_checkable
class PairSource(Protocol):
    """Examples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> StoredPair: ...


class TfdsSource:
    """The training split of a prepared TFDS dataset, images not decoded. It can be sent to other processes."""

    def __init__(self, folder: Path) -> None:
        """Opens the dataset in `folder`, the one that holds dataset_info.json.

        Raises:
          InputError: it is damaged, has no training split, no features lr and hr, or no random access.
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
            # TFDS raises nearly anything on damaged data.
            raise InputError(
                f"{folder}: not a dataset with random access to a split train ({one_line(error)})"
            ) from error

    def _require_image_features(self, info: tfds.core.DatasetInfo) -> None:
        features = dict(info.features.items())
        if not all(isinstance(features.get(name), tfds.features.Image) for name in ("lr", "hr")):
            raise InputError(f"{self._folder}: needs the image features lr and hr, has {', '.join(sorted(features))}")

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> StoredPair:
        try:
            example = self._source[index]
        except Exception as error:
            raise InputError(f"{self._folder}: damaged ({one_line(error)}); remove it and prepare it again") from error
        return StoredPair(lr=example["lr"], hr=example["hr"])

    def __reduce__(self) -> tuple[type["TfdsSource"], tuple[Path]]:
        return TfdsSource, (self._folder,)


def open_dataset(name: str, data_dir: str | os.PathLike[str], scale: int) -> TfdsSource:
    """Opens a prepared dataset.

    Args:
      name: one of the datasets that `prepare` writes, such as "div2k", or any TFDS dataset with image features lr
        and hr, as NAME or NAME/CONFIG.
      data_dir: folder of the datasets.
      scale: HR / LR.

    Raises:
      InputError: it is not there (the message says how to prepare it), is unfit, or of another scale.
    """
    candidates = [name] if "/" in name else [f"{name}/x{scale}", name]
    folders = (_newest_version(Path(data_dir) / candidate) for candidate in candidates)
    folder = next((folder for folder in folders if folder is not None), None)
    if folder is None:
        raise InputError(f"{Path(data_dir) / candidates[0]}: no prepared dataset; {_advice(name, data_dir, scale)}")
    source = TfdsSource(folder)
    lr, hr = decode_pair(source[0], scale)
    del lr, hr  # decoded only to refuse a wrong scale before anything is compiled
    return source


def _newest_version(folder: Path) -> Path | None:
    versions = [path.parent.name for path in folder.glob(f"*/{_INFO_FILE}")]
    valid = [tfds.core.Version(version) for version in versions if tfds.core.Version.is_valid(version)]
    return folder / str(max(valid)) if valid else None


def _advice(name: str, data_dir: str | os.PathLike[str], scale: int) -> str:
    dataset, _, config = name.partition("/")
    if dataset not in BUILDERS:
        return f"datasets of your own are NAME or NAME/CONFIG, others are {', '.join(BUILDERS)}"
    files = {"df2k": " --manual_dir=FOLDER", "image_folder": " --source=FOLDER"}.get(dataset, "")
    wanted = config.removeprefix("x") or scale
    return f"run: python -m seemore_jax prepare {dataset} --data_dir={os.fspath(data_dir)} --scale {wanted}{files}"


def training_batches(
    source: PairSource,
    *,
    scale: int,
    patch_size: int,
    batch_size: int,
    seed: int,
    first_step: int,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
) -> Generator[Batch, None, None]:
    """Batches of random patches without end, from step `first_step` on.

    Each epoch visits each example once, in an order of its own. `close()` ends threads and worker processes.

    Args:
      source: pairs, such as `open_dataset` gives.
      scale: HR / LR.
      patch_size: side of an LR patch; smaller images are extended by mirroring.
      batch_size: of all processes together. Step t consists of the samples t·batch_size, t·batch_size + 1, ….
      seed: of order, crops and orientations, 0 to 2³² − 1.
      first_step: number of the first step.
      process_index: this process, which yields the samples i with i mod process_count = process_index.
      process_count: number of processes.
      num_workers: worker processes that decode; 0 uses threads of this one.

    Raises:
      InputError: the processes do not divide the batch; later, an example is damaged or of another scale.
    """
    samples = sample_batches(
        source,
        RandomPatch(scale, patch_size),
        seed=seed,
        batch_size=batch_size,
        first_step=first_step,
        process_index=process_index,
        process_count=process_count,
        stack=_stack,
    )
    iterable = samples.to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD))
    if num_workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads flags, which only programs started by absl have parsed
        options = grain.MultiprocessingOptions(num_workers=num_workers)
        iterable = iterable.mp_prefetch(options, worker_init_fn=_follow_parent)
    return _iterate(iterable)


def sample_batches(
    source: PairSource | Sequence[Any],
    transform: grain.transforms.RandomMap,
    *,
    seed: int,
    batch_size: int,
    first_step: int,
    process_index: int,
    process_count: int,
    stack: Callable[[Sequence[Any]], Any],
) -> grain.MapDataset:
    """The batches of one process by number, of which 0 is that of step `first_step`.

    Which element is sample number i, and the random numbers that `transform` gets with it, depend on (seed, i) and
    the length of `source` alone: pixels and the sizes of the same tiles give the same samples.

    Args:
      source: elements by number.
      transform: applied to each.
      seed, batch_size, first_step, process_index, process_count: as in `training_batches`.
      stack: makes a batch of a list of samples.

    Raises:
      InputError: the processes do not divide the batch.
    """
    if batch_size % process_count:
        raise InputError(f"batch_size: {batch_size} is not divisible among {process_count} processes")
    samples = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(transform)
    # Batched before worker processes take turns, so that their number does not change the batches.
    return samples[first_step * batch_size + process_index :: process_count].batch(
        batch_size // process_count, drop_remainder=True, batch_fn=stack
    )


def _iterate(iterable: grain.IterDataset) -> Generator[Batch, None, None]:
    with contextlib.closing(iter(iterable)) as iterator:  # ends threads and workers with the generator
        for batch in iterator:
            yield Batch(np.array(batch.lr), np.array(batch.hr))  # copies: workers send shared memory


def _follow_parent(worker: int, workers: int) -> None:
    """Makes a worker process end when its parent does, whatever ends that, and not before."""
    del worker, workers
    # Ctrl-C and schedulers signal a whole group of processes, but training goes on until it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Grain's workers would wait for ever for a parent that was killed.
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _stack(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    lr, hr = zip(*pairs, strict=True)
    return Batch(np.stack(lr), np.stack(hr))


@dataclasses.dataclass(frozen=True)
class RandomPatch(grain.transforms.RandomMap):
    """A random crop of a pair in a random one of the eight orientations."""

    scale: int
    patch_size: int

    def random_map(self, element: StoredPair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """LR (p, p, 3) and HR (scale·p, scale·p, 3), uint8.

        Raises:
          InputError: an image is damaged, or the pair is of another scale.
        """
        lr, hr = decode_pair(element, self.scale)
        position = draw_position(rng, lr.shape[0], lr.shape[1], self.patch_size)
        lr = crop(lr, position.top, position.left, self.patch_size)
        hr = crop(hr, position.top * self.scale, position.left * self.scale, self.patch_size * self.scale)
        orientation = position.flip_x, position.flip_y, position.transpose
        return orient(lr, *orientation), orient(hr, *orientation)


class PatchPosition(NamedTuple):
    """Where in an image a patch is, in LR pixels, and in which orientation."""

    top: int
    left: int
    flip_x: bool
    flip_y: bool
    transpose: bool


def draw_position(rng: np.random.Generator, height: int, width: int, patch_size: int) -> PatchPosition:
    """A random place for a patch in an LR image of that size; at the top or left where the image is smaller."""
    top, left = (int(rng.integers(max(side - patch_size, 0) + 1)) for side in (height, width))
    flip_x, flip_y, transpose = (bool(bit) for bit in rng.integers(2, size=3))
    return PatchPosition(top, left, flip_x, flip_y, transpose)


def crop(image: UInt8[np.ndarray, "h w 3"], top: int, left: int, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """A square of an image, which is extended to the bottom and right by mirroring where it is too small."""
    part = image[top : top + side, left : left + side]
    missing = [(0, side - length) for length in part.shape[:2]]
    return np.pad(part, [*missing, (0, 0)], mode="symmetric") if any(sum(pair) for pair in missing) else part


def orient(
    image: UInt8[np.ndarray, "h w 3"], flip_x: bool, flip_y: bool, transpose: bool
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image mirrored left to right, then top to bottom, then at its diagonal, each if wanted; a view."""
    if flip_x:
        image = image[:, ::-1]
    if flip_y:
        image = image[::-1]
    return image.swapaxes(0, 1) if transpose else image


def decode_pair(example: StoredPair, scale: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "sh sw 3"]]:
    """LR and HR of an example as RGB.

    Raises:
      InputError: an image is damaged, or HR is not `scale` times LR.
    """
    lr, hr = (_decode(example[name]) for name in ("lr", "hr"))
    if hr.shape[:2] != (lr.shape[0] * scale, lr.shape[1] * scale):
        raise InputError(
            f"dataset: HR of {hr.shape[1]}×{hr.shape[0]} is not {scale} times LR of {lr.shape[1]}×{lr.shape[0]}; "
            "is it of another scale?"
        )
    return lr, hr


def _decode(data: bytes) -> np.ndarray:
    try:
        if data.startswith(_PNG):
            return to_rgb8(np.asarray(imagecodecs.png_decode(data)))
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        # Decoders raise nearly anything on damaged data.
        raise InputError(f"dataset: a damaged image ({one_line(error)}); prepare it again") from error
