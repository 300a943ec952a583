"""Writes outputs in a thread of its own, while the next images are computed."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from seemore_jax.inference.outcomes import Outcome

# Results that wait to be written take at most so many bytes, or are only one.
_WAITING_BYTES = 2**28


class Writer(contextlib.AbstractContextManager["Writer"]):
    """A thread that writes one output after the other, in the order in which they are handed over.

    If the block is left by an exception, outputs that wait are not written. The one that is being written is finished
    first; after Ctrl-C, the process may end meanwhile (see `system.files.remove_unfinished_files`).
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._waiting: deque[tuple[Future[Outcome], int]] = deque()

    def write(self, task: Callable[[], Outcome], size: int) -> Iterator[Outcome]:
        """Hands over an output. Waits while too many wait, and yields what became of those that are written.

        Args:
          task: function that writes the output.
          size: memory that the output takes until it is written, in bytes.
        """
        self._waiting.append((self._thread.submit(task), size))
        while self._waiting and (self._waiting[0][0].done() or self._is_full()):
            yield self._waiting.popleft()[0].result()

    def rest(self) -> Iterator[Outcome]:
        """Waits for all outputs, and yields what became of them."""
        while self._waiting:
            yield self._waiting.popleft()[0].result()

    def _is_full(self) -> bool:
        return len(self._waiting) > 1 and sum(size for _, size in self._waiting) > _WAITING_BYTES

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=kind is not KeyboardInterrupt, cancel_futures=kind is not None)
