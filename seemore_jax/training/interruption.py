"""Requests to stop a run: the first SIGTERM or Ctrl-C asks, the second one kills."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """A request to stop this process.

    The other processes learn of it from the step's metrics, so that all processes stop after the same step.

    Attributes:
      signal: number of the signal that asked; 0 if there was none.

    Args:
      signals: the signals that ask.
    """

    def __init__(self, signals: Sequence[int]) -> None:
        self.signal = 0
        self._signals = signals

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Handles a signal. From now on, the signals have their usual effect again, which is to kill the process."""
        self.signal = number
        for which in self._signals:
            signal.signal(which, signal.SIG_DFL)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turns SIGTERM and SIGINT into a request while the block runs.

    If SIGINT is ignored, it stays ignored: shells start background jobs like this, as Ctrl-C is not meant for them.
    """
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signals = (signal.SIGTERM,) if ignored else (signal.SIGTERM, signal.SIGINT)
    request = StopRequest(signals)
    before = {which: signal.signal(which, request) for which in signals}
    try:
        yield request
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
