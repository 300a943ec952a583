"""Progress of work that reports none: by time, from how long such work has taken before."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from seemore_jax.network import SeemoReConfig

_TICK = 0.2  # seconds
# Multiply-accumulates in a second, for the first image: a guess, which the first measurement replaces.
_RATE = 3e10
# Seconds that work is estimated to take at least: the first image of a size waits for a program to be compiled.
_LEAST = 2.0
# Fraction at which the estimated time is over. What takes longer gets nearer to the end and never there.
_AT_ESTIMATE = 0.9


class Speed:
    """How fast the network computes here, measured while files are upscaled."""

    def __init__(self) -> None:
        self._rate: float | None = None

    @property
    def is_measured(self) -> bool:
        """Whether an image has been computed yet."""
        return self._rate is not None

    def seconds(self, work: float) -> float:
        """Returns how long the work will take: as measured last, or as guessed if nothing was measured.

        Args:
          work: number of multiply-accumulates.
        """
        return work / (self._rate or _RATE)

    @contextlib.contextmanager
    def measured(self, work: float) -> Iterator[None]:
        """Measures how long the block takes, if it succeeds.

        Args:
          work: number of multiply-accumulates of the block.
        """
        begin = time.perf_counter()
        yield
        self._rate = work / max(time.perf_counter() - begin, 1e-6)


def work_of(config: SeemoReConfig, height: int, width: int) -> float:
    """Returns the multiply-accumulates for an image.

    Args:
      config: configuration of the network.
      height, width: size of the image in LR pixels.
    """
    return float(config.macs(height * config.scale, width * config.scale))


@contextlib.contextmanager
def ticking(progress: Callable[[float], None], seconds: float) -> Iterator[Callable[[float], None]]:
    """Reports progress while the block runs. As soon as the block reports its own progress, time does not count.

    Args:
      progress: function that is called with the fraction that is done, from 0 to 1, also by another thread.
      seconds: estimated time; less than two seconds count as two.

    Yields:
      The function by which the block reports its own progress. What is reported never decreases.

    Raises:
      BaseException: what `progress` raises, in either thread. The block ends with it at its next own report, or at its
        end.
    """
    ended, begin, lock = threading.Event(), time.perf_counter(), threading.Lock()
    reached, raised = [0.0], list[BaseException]()

    def report(share: float) -> None:
        with lock:
            reached[0] = max(reached[0], share)  # the estimate may have gone further
            progress(reached[0])

    def tick() -> None:
        try:
            while not ended.wait(_TICK):
                report(share_at((time.perf_counter() - begin) / max(seconds, _LEAST)))
        except BaseException as error:  # the caller wants the work to stop
            raised.append(error)

    def stop_if_raised() -> None:
        if raised:
            raise raised[0]

    def real(share: float) -> None:
        ended.set()
        stop_if_raised()
        report(share)

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield real
    finally:
        ended.set()
        thread.join()
    stop_if_raised()


def share_at(time: float) -> float:
    """Returns the fraction that is reported at a time.

    Args:
      time: multiple of the estimated time.
    """
    if time <= 1:
        return _AT_ESTIMATE * time
    return 1 - (1 - _AT_ESTIMATE) / time
