"""The processes of a run keep an eye on one another, so that none waits in silence for one that is gone.

They meet at the key-value store of JAX's coordination service, which process 0 runs. Without this, a lost process
shows as an error of whichever collective comes next, or not at all, and an error of one process is unknown to the rest.
"""

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn, Protocol, runtime_checkable

import jax
from tqdm import tqdm

from seemore_jax.errors import InputError
from seemore_jax.exit_status import INTERRUPTED
from seemore_jax.training.distributed import coordination_client

# How often each process gives a sign of life and reads what the others left.
POLL_SECONDS = 2.0
# A process that is behind the others, or silent, for so long is named in the log, and waited for.
SLOW_SECONDS = 8.0
# A process that is silent for so long is lost; a slow one is not silent, unless the whole machine stands still.
SILENT_SECONDS = 20.0

_ALIVE = "seemore/alive"
_FAILED = "seemore/failed"
_DONE = "done"


@runtime_checkable
class Store(Protocol):
    """What is used of JAX's client of the coordination service."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...


class Watch:
    """This process's signs of life, and its view of the others; ends the process when another one is lost.

    Args:
      store: where the processes meet.
      index: this process.
      count: all processes.
      advice: what to do after a process was lost.
    """

    def __init__(self, store: Store, index: int, count: int, advice: str) -> None:
        self._store = store
        self._advice = advice
        self._index = index
        self._judge = Judge(count) if index == 0 else None
        self._step = -1
        self._beat = 0
        self._answered = time.monotonic()
        self._closed = threading.Event()

    def start(self) -> "Watch":
        """Begins to watch, in two threads: a call to a dead coordinator may never return."""
        for target in (self._talk, self._watch_coordinator):
            threading.Thread(target=target, name="watch", daemon=True).start()
        return self

    def begins(self, step: int) -> None:
        """Says which step this process is about to compute; those that have not come so far hold it up."""
        self._step = step

    def close(self) -> None:
        """This process needs the others no longer."""
        self._closed.set()
        with contextlib.suppress(Exception):  # whatever ended the store is reported where it matters
            self._store.key_value_set(f"{_ALIVE}/{self._index}", _DONE, allow_overwrite=True)

    def give_up(self, error: BaseException) -> NoReturn:
        """Ends this process because of an error, and lets the others know the reason."""
        if isinstance(error, RuntimeError):
            # What a collective raises when a process is gone. Which one that is takes the watch this long to see;
            # it then says so and ends this process.
            time.sleep(SILENT_SECONDS + 3 * POLL_SECONDS)
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 2
        if not isinstance(error, InputError | OSError | KeyboardInterrupt):
            traceback.print_exc()
            status = 1
        line = " ".join(str(error).split())[:300] or type(error).__name__
        self._complain(line, status)
        try:
            self._tell(self._index, status, line)
        except Exception as unreachable:  # the error itself is what matters
            print(f"the other processes could not be told: {unreachable}", file=sys.stderr)
        os._exit(status)  # an orderly exit would wait for the others

    def _talk(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            try:
                self._exchange()
            except Exception as error:
                if time.monotonic() - self._answered > SILENT_SECONDS:
                    self._end(f"process 0, which coordinates the run, cannot be reached ({_one_line(error)})", 1)

    def _exchange(self) -> None:
        self._beat += 1
        sign = f"{self._beat} {self._step} {socket.gethostname()}"
        self._store.key_value_set(f"{_ALIVE}/{self._index}", sign, allow_overwrite=True)
        failed = self._read(_FAILED)
        failed.pop(self._index, None)
        for index, reason in failed.items():
            status, line = reason.split(" ", 1)
            if self._index == 0:
                time.sleep(3 * POLL_SECONDS)  # with this process goes the store, and JAX aborts who still needs it
            self._end(f"process {index} ended: {line}", int(status))  # a scheduler sees the same from all of them
        if self._judge:
            for line in self._judge.look(self._read(_ALIVE), time.monotonic()):
                tqdm.write(line, file=sys.stderr)
            if self._judge.lost:
                index, line = self._judge.lost
                self._tell(index, 1, line)
                self._end(f"process {index} ended: {line}", 1)
        self._answered = time.monotonic()

    def _tell(self, index: int, status: int, line: str) -> None:
        """Lets all processes know that one of them has ended, and gives them the time to read it."""
        self._store.key_value_set(f"{_FAILED}/{index}", f"{status} {line}", allow_overwrite=True)
        time.sleep(2 * POLL_SECONDS)  # until they have

    def _read(self, folder: str) -> dict[int, str]:
        return {int(key.rsplit("/", 1)[1]): value for key, value in self._store.key_value_dir_get(folder)}

    def _watch_coordinator(self) -> None:
        looked = time.monotonic()
        while not self._closed.wait(POLL_SECONDS):
            before, looked = looked, time.monotonic()
            if looked - before > SLOW_SECONDS:
                self._answered = looked  # it was this process that stood still
            if looked - self._answered > SILENT_SECONDS + POLL_SECONDS:
                self._end("process 0, which coordinates the run, does not answer", 1)

    def _end(self, line: str, status: int) -> NoReturn:
        self._complain(line, status)
        os._exit(status)  # an orderly exit would wait for the lost process

    def _complain(self, line: str, status: int) -> None:
        """Says why this process ends, on a line of its own even where there is a progress bar."""
        tqdm.write(f"error: {line}" + (f"; {self._advice}" if status != 2 else ""), file=sys.stderr)
        sys.stderr.flush()


class Judge:
    """Which processes are slow and which are lost, by the signs of life that process 0 reads.

    Attributes:
      lost: the process that is lost, and why it is thought so; None while there is none.
    """

    def __init__(self, count: int) -> None:
        self.lost: tuple[int, str] | None = None
        self._signs: dict[int, str] = {}
        self._changed: dict[int, float] = {}
        self._behind: dict[int, float] = {}  # since when
        self._named: dict[int, float] = {}  # for how long each was behind when it was named last
        self._count = count

    def look(self, signs: dict[int, str], now: float) -> list[str]:
        """Takes the newest signs; returns lines for the log."""
        for index in range(self._count):
            if index not in self._changed or signs.get(index) != self._signs.get(index):
                self._changed[index] = now
        self._signs = signs
        steps = {index: int(sign.split()[1]) for index, sign in signs.items() if sign != _DONE}
        front = max(steps.values(), default=-1)
        lines = []
        for index in range(self._count):
            if signs.get(index) == _DONE:
                continue
            silent = now - self._changed[index]
            if silent > SILENT_SECONDS and index in signs:
                self.lost = index, f"lost: no sign of life from {_host(signs[index])} for {silent:.0f} s"
            elif silent > SLOW_SECONDS or steps.get(index, -1) < front:
                lines += self._name(index, steps.get(index, -1), front, now)
            else:
                self._behind.pop(index, None)
                if self._named.pop(index, None):
                    lines.append(f"process {index} goes on")
        return lines

    def _name(self, index: int, step: int, front: int, now: float) -> list[str]:
        """A line about a process that is behind; the next one when that has lasted twice as long."""
        since = min(self._behind.setdefault(index, now), self._changed[index])
        lasted = now - since
        if lasted < max(SLOW_SECONDS, 2 * self._named.get(index, 0)):
            return []
        self._named[index] = lasted
        where = f" on {_host(self._signs[index])}" if index in self._signs else ""
        place = f"before step {front}" if step < front else "silent"
        return [f"waiting for process {index}{where}: {place} for {lasted:.0f} s"]


@contextlib.contextmanager
def watched(advice: str) -> Iterator[Watch | None]:
    """Watches the other processes while the block runs; an error in it ends all of them, with its line.

    Args:
      advice: what to do after a process was lost.

    Yields:
      The watch; None if this process is alone, whose errors are raised as ever.
    """
    client = coordination_client()
    if client is None:
        yield None
        return
    watch = Watch(client, jax.process_index(), jax.process_count(), advice).start()
    try:
        yield watch
    except (Exception, KeyboardInterrupt) as error:
        watch.give_up(error)
    watch.close()


def _host(sign: str) -> str:
    return sign.split()[2]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
