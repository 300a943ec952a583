"""The input pipeline: from a prepared training set to batches of patches.

Sample number i is a pure function of (seed, i). It does not depend on the number of worker processes, devices or hosts,
or on interruptions. So the step number is all that a checkpoint has to store about the data.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from seemore_jax.data.degradation import JpegDegradation
from seemore_jax.data.patches import RandomPatch
from seemore_jax.data.stored_pairs import PairSource
from seemore_jax.system.errors import InputError

# Decoders release Python's global lock, so threads help. For more cores than these, use worker processes.
_THREADS = 4
_BATCHES_AHEAD = 8


class Batch(NamedTuple):
    """The patches of one process for one step.

    Attributes:
      lr: LR patches, uint8 (N, p, p, 3), RGB.
      hr: HR patches, uint8 (N, scale·p, scale·p, 3), RGB.
    """

    lr: UInt8[np.ndarray, "n p p 3"]
    hr: UInt8[np.ndarray, "n sp sp 3"]


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
    degradation: JpegDegradation | None = None,
) -> Generator[Batch, None, None]:
    """Yields batches of random patches without end.

    Each epoch visits each pair once, in a new order. `close()` of the generator ends its threads and worker processes.

    Args:
      source: the stored pairs, such as `open_dataset` returns.
      scale: the factor between the sides of HR and of LR.
      patch_size: the side of an LR patch in pixels. Smaller images are extended by mirroring.
      batch_size: the number of patches of all processes together. Step t has the samples t·batch_size to
        (t + 1)·batch_size − 1.
      seed: the seed of order, positions and orientations, from 0 to 2³² − 1.
      first_step: the number of the first step, from 0.
      process_index: the number of this process, which gets the samples i with i mod process_count = process_index.
      process_count: the number of processes.
      num_workers: the number of worker processes that decode; 0 decodes in threads of this process.
      degradation: the JPEG compression of LR patches; None leaves them as they are.

    Yields:
      The share of this process in each batch.

    Raises:
      InputError: the batch cannot be split evenly over the processes. While iterating: a pair is damaged or of another
        scale.
    """
    samples = sample_batches(
        source,
        RandomPatch(scale, patch_size, degradation),
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
            flags.FLAGS.mark_as_parsed()  # grain reads absl's flags, which only programs started by absl have parsed
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
    """Returns the batches of one process as a dataset, in which batch 0 is that of step `first_step`.

    The element of sample i and its random numbers depend only on (seed, i) and on the length of `source`. So stored
    pairs and a list of the sizes of the same tiles give the same samples.

    Args:
      source: the elements by number.
      transform: the random transformation of each element.
      seed: the seed of order and transformation, from 0 to 2³² − 1.
      batch_size: the number of samples of all processes together.
      first_step: the number of the first step, from 0.
      process_index: the number of this process, which gets the samples i with i mod process_count = process_index.
      process_count: the number of processes.
      stack: makes a batch of a list of samples.

    Raises:
      InputError: the batch cannot be split evenly over the processes.
    """
    if batch_size % process_count:
        raise InputError(f"batch_size: {batch_size} is not divisible among {process_count} processes")
    samples = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(transform)
    # The samples are batched before they are distributed over worker processes, so that the number of workers does not
    # change the batches.
    return samples[first_step * batch_size + process_index :: process_count].batch(
        batch_size // process_count, drop_remainder=True, batch_fn=stack
    )


def _iterate(iterable: grain.IterDataset) -> Generator[Batch, None, None]:
    with contextlib.closing(iter(iterable)) as iterator:  # ends threads and workers together with the generator
        for batch in iterator:
            yield Batch(np.array(batch.lr), np.array(batch.hr))  # copies, because workers send shared memory


def _follow_parent(worker: int, workers: int) -> None:
    """Makes a worker process end when its parent process ends for any reason, and not before."""
    del worker, workers
    # Ctrl-C and schedulers signal a whole group of processes, but training continues until it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Otherwise Grain's workers would wait forever for a parent that was killed.
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _stack(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    lr, hr = zip(*pairs, strict=True)
    return Batch(np.stack(lr), np.stack(hr))
