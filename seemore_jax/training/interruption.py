"""Stopping a run from outside: the first SIGTERM or Ctrl-C asks, the second kills."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether this process was asked to stop, and by which signal.

    The number travels to the other processes with the step's metrics, so that all stop after the same step.

    Args:
      signals: those that ask.
    """

    def __init__(self, signals: Sequence[int]) -> None:
        self.signal = 0
        self._signals = signals

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler; from now on the signals do again what they usually do, which is to kill."""
        self.signal = number
        for which in self._signals:
            signal.signal(which, signal.SIG_DFL)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """While the block runs, SIGTERM and SIGINT become a request.

    A SIGINT that is ignored stays ignored: a script's background jobs are started so, because Ctrl-C is not for them.
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
