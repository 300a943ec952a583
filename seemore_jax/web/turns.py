"""Turns: who asks first computes first, and who computes for long lets the others compute in between."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

# The seconds after which somebody who waits is told again how many are ahead, and may give up.
_LOOK = 0.5

# Function that is called while somebody waits, with the number of those that come first. It may raise to give up.
Waiting = Callable[[int], None]


class Turns:
    """A lock that is given in the order in which it was asked for, and that its holder can pass on for a while."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[Turn] = []  # the first one holds the lock

    @contextlib.contextmanager
    def take(self, waiting: Waiting = lambda ahead: None) -> Iterator["Turn"]:
        """Holds the lock while the block runs.

        Args:
          waiting: function that is called while others hold the lock, or asked for it earlier.

        Yields:
          The turn, with which the block can pass the lock on.
        """
        turn = Turn(self, waiting)
        with self._changed:
            self._queue.append(turn)
        try:
            self.wait(turn)
            yield turn
        finally:
            with self._changed:
                self._queue.remove(turn)
                self._changed.notify_all()

    def wait(self, turn: "Turn") -> None:
        """Waits until a turn is the first one.

        Args:
          turn: a turn of this lock.
        """
        while ahead := self._ahead(turn):
            turn.waiting(ahead)
            with self._changed:
                if self._queue[0] is not turn:
                    self._changed.wait(_LOOK)

    def step_back(self, turn: "Turn") -> bool:
        """Makes a turn the last one. Returns whether there are others.

        Args:
          turn: a turn of this lock.
        """
        with self._changed:
            self._queue.remove(turn)
            self._queue.append(turn)
            self._changed.notify_all()
            return len(self._queue) > 1

    def _ahead(self, turn: "Turn") -> int:
        with self._changed:
            return self._queue.index(turn)


class Turn:
    """One turn of a lock.

    Attributes:
      waiting: function that is called while the turn waits.
      waited: the seconds for which the turn had passed the lock on.
    """

    def __init__(self, turns: Turns, waiting: Waiting) -> None:
        self._turns = turns
        self.waiting = waiting
        self.waited = 0.0

    def pass_on(self) -> None:
        """Lets all others that wait now compute first, if there are any, and waits for the next turn."""
        if self._turns.step_back(self):
            start = time.perf_counter()
            self._turns.wait(self)
            self.waited += time.perf_counter() - start
