"""The processes of a run keep an eye on one another, so that none waits in silence for one that is gone.

They meet at the key-value store of JAX's coordination service, which process 0 runs. Without this, a lost process
shows as an error of whichever collective comes next, or as an abort by JAX, or not at all, and an error of one process
is unknown to the rest.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

import jax
from tqdm import tqdm

from seemore_jax.system.errors import one_line
from seemore_jax.system.exit_status import LOST, REPEATS, explain
from seemore_jax.system.processes import coordination_client, coordinator_address

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


class Heartbeat:
    """This process's signs of life, and its view of the others; ends the process when another one is lost.

    Args:
      store: where the processes meet.
      index: this process.
      count: all processes.
      address: HOST:PORT of process 0.
      advice: what to do after a process was lost.
    """

    def __init__(self, store: Store, index: int, count: int, address: str, advice: str) -> None:
        self._store = store
        self._advice = advice
        self._address = address
        self._first_host = ""  # that of process 0, once it has said so
        self._index = index
        self._monitor = ProcessMonitor(count) if index == 0 else None
        self._step = -1
        self._beat = 0
        self._answered = self._looked = time.monotonic()
        self._closed = threading.Event()
        self._ending = threading.Lock()
        self._status: int | None = None  # once it is known

    def start(self) -> "Heartbeat":
        """Begins to heartbeat, in two threads: a call to a dead coordinator may never return."""
        _delay_aborts()
        for target in (self._talk, self._watch_coordinator):
            threading.Thread(target=target, name="heartbeat", daemon=True).start()
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
        status, line = explain(error)
        if status == LOST and isinstance(error, RuntimeError):
            # What a collective raises when a process is gone. Which one that is takes the heartbeat this long to see;
            # it then says so and ends this process.
            time.sleep(SILENT_SECONDS + 3 * POLL_SECONDS)
        if not line:
            traceback.print_exception(error)
            line = f"{type(error).__name__}: {one_line(error)}"
        if self._complain(line, status):
            try:
                self._tell(self._index, status, line[:300])
            except Exception as unreachable:  # the error itself is what matters
                print(f"the other processes could not be told: {unreachable}", file=sys.stderr)
        self._exit()

    def _talk(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            try:
                self._exchange()
            except Exception as error:
                if time.monotonic() - self._answered > SILENT_SECONDS:
                    self._lose_coordinator(f"it cannot be reached ({one_line(error)})")

    def _exchange(self) -> None:
        self._check_own_stillness()
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
        if not self._first_host:
            first = self._read(_ALIVE).get(0, _DONE)
            self._first_host = "" if first == _DONE else _host(first)
        if self._monitor:
            for line in self._monitor.update(self._read(_ALIVE), time.monotonic()):
                tqdm.write(line, file=sys.stderr)
            if self._monitor.lost:
                index, line = self._monitor.lost
                self._tell(index, LOST, line)
                self._end(f"process {index} ended: {line}", LOST)
        self._answered = time.monotonic()

    def _tell(self, index: int, status: int, line: str) -> None:
        """Lets all processes know that one of them has ended, and gives them the time to read it."""
        self._store.key_value_set(f"{_FAILED}/{index}", f"{status} {line}", allow_overwrite=True)
        time.sleep(2 * POLL_SECONDS)  # until they have

    def _read(self, folder: str) -> dict[int, str]:
        return {int(key.rsplit("/", 1)[1]): value for key, value in self._store.key_value_dir_get(folder)}

    def _watch_coordinator(self) -> None:
        while not self._closed.wait(POLL_SECONDS / 2):
            self._check_own_stillness()
            before, self._looked = self._looked, time.monotonic()
            if self._looked - before > SLOW_SECONDS:
                self._answered = self._looked  # it was this process that stood still
            if self._looked - self._answered > SILENT_SECONDS + POLL_SECONDS:
                self._lose_coordinator("it does not answer")
            if self._index > 0 and _aborting() and not _listens(self._address):
                self._lose_coordinator("it has closed the connection")

    def _check_own_stillness(self) -> None:
        """Ends this process if it was stopped for so long, and goes on now, that the others take it for lost."""
        still = time.monotonic() - self._looked
        if still > SILENT_SECONDS:
            self._end(f"this process stood still for {still:.0f} s, and the others have given it up", LOST)

    def _lose_coordinator(self, reason: str) -> NoReturn:
        host = self._first_host or self._address.rsplit(":", 1)[0]
        self._end(f"process 0 on {host}, which coordinates the run, is lost: {reason}", LOST)

    def _end(self, line: str, status: int) -> NoReturn:
        self._complain(line, status)
        self._exit()

    def _exit(self) -> NoReturn:
        """Ends this process with the status that it has given; an orderly exit would wait for the lost one."""
        os._exit(LOST if self._status is None else self._status)

    def _complain(self, line: str, status: int) -> bool:
        """Says why this process ends, on a line of its own even where there is a progress bar.

        Returns whether this is the first reason; a thread that comes with a second one gives the first one time.
        """
        with self._ending:
            first = self._status is None
            if first:
                self._status = status
                tqdm.write(f"error: {line}" + (f"; {self._advice}" if status != REPEATS else ""), file=sys.stderr)
                sys.stderr.flush()
        if not first:
            time.sleep(3 * POLL_SECONDS)
        return first


class ProcessMonitor:
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

    def update(self, signs: dict[int, str], now: float) -> list[str]:
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
def monitored(advice: str) -> Iterator[Heartbeat | None]:
    """Watches the other processes while the block runs; an error in it ends all of them, with its line.

    Args:
      advice: what to do after a process was lost.

    Yields:
      The heartbeat; None if this process is alone, whose errors are raised as ever.
    """
    client = coordination_client()
    if client is None:
        yield None
        return
    heartbeat = Heartbeat(client, jax.process_index(), jax.process_count(), coordinator_address(), advice).start()
    try:
        yield heartbeat
    except (Exception, KeyboardInterrupt) as error:
        heartbeat.give_up(error)
    heartbeat.close()


def _delay_aborts() -> None:
    """Lets an abort of this process wait for six seconds, in which the heartbeat can say why.

    JAX aborts a process at once when process 0 closes the connection. The handler is the C library's `sleep`, one of
    the few functions that a handler may call; its argument is that of all handlers, the number of the signal: 6.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal.restype = ctypes.c_void_p
    library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))


def _aborting() -> bool:
    """Whether a thread of this process is in that handler, where it has this signal blocked, and not all; on Linux."""
    for thread in Path("/proc/self/task").glob("*/status"):
        with contextlib.suppress(OSError):  # a thread that has ended
            mask = int(re.findall(r"^SigBlk:\s*(\w+)", thread.read_text(), re.MULTILINE)[0], 16)
            if mask >> signal.SIGABRT - 1 & 1 and not mask >> signal.SIGSEGV - 1 & 1:
                return True
    return False


def _listens(address: str) -> bool:
    """Whether somebody accepts connections at HOST:PORT."""
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=POLL_SECONDS):
            return True
    except OSError:
        return False


def _host(sign: str) -> str:
    return sign.split()[2]
