"""Stopping a run from outside: the first SIGTERM or Ctrl-C asks, the second kills."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether this process was asked to stop, and by which signal.

    The number travels to the other processes with the step's metrics, so that all stop after the same step.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler; from now on the signals do again what they usually do, which is to kill."""
        self.signal = number
        for which in (signal.SIGTERM, signal.SIGINT):
            signal.signal(which, signal.SIG_DFL)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """While the block runs, SIGTERM and SIGINT become a request."""
    request = StopRequest()
    before = {which: signal.signal(which, request) for which in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
