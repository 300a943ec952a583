"""Detects lost and slow processes of a run. A process that waits for a lost one prints a message and ends.

The processes exchange heartbeats through the key-value store of JAX's coordination service, which process 0 runs.
Without heartbeats, a lost process would show as an error of the next collective operation, as an abort by JAX, or not
at all; and the other processes would not learn of an error in one of them.
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

# Once in this time, a process sends a heartbeat and reads the messages of the others.
POLL_SECONDS = 2.0
# A process that is behind the others or silent for this long is named on standard error. The others wait for it.
SLOW_SECONDS = 8.0
# A process that is silent for this long is lost. A slow process still sends heartbeats, from another thread.
SILENT_SECONDS = 20.0

_ALIVE = "seemore/alive"
_FAILED = "seemore/failed"
_DONE = "done"


@runtime_checkable
class Store(Protocol):
    """The methods of JAX's coordination client that this module calls."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...


class Heartbeat:
    """Sends the heartbeats of this process, and ends the process when another one is lost.

    Args:
      store: the key-value store of the run.
      index: number of this process.
      count: number of processes.
      address: HOST:PORT of process 0.
      advice: what the user should do after a process was lost; it is printed at the end of the error message.
    """

    def __init__(self, store: Store, index: int, count: int, address: str, advice: str) -> None:
        self._store = store
        self._advice = advice
        self._address = address
        self._first_host = ""  # host of process 0, once its heartbeat has been read
        self._index = index
        self._monitor = ProcessMonitor(count) if index == 0 else None
        self._step = -1
        self._beat = 0
        self._answered = self._looked = time.monotonic()
        self._closed = threading.Event()
        self._ending = threading.Lock()
        self._status: int | None = None  # exit status of this process, once it is ending

    def start(self) -> "Heartbeat":
        """Starts the heartbeats in two threads, since a call to a coordinator that is lost may never return."""
        _delay_aborts()
        for target in (self._talk, self._watch_coordinator):
            threading.Thread(target=target, name="heartbeat", daemon=True).start()
        return self

    def begins(self, step: int) -> None:
        """Announces the step that this process is about to compute. This method does not wait for the others.

        Args:
          step: number of the step, from 1.
        """
        self._step = step

    def close(self) -> None:
        """Ends the heartbeats: this process no longer needs the others."""
        self._closed.set()
        with contextlib.suppress(Exception):  # if the store is gone, `_watch_coordinator` reports why
            self._store.key_value_set(f"{_ALIVE}/{self._index}", _DONE, allow_overwrite=True)

    def give_up(self, error: BaseException) -> NoReturn:
        """Ends this process because of an error, and tells the others the reason.

        Args:
          error: the error.
        """
        status, line = explain(error)
        if status == LOST and isinstance(error, RuntimeError):
            # A collective raises this when a process is lost. During this sleep, the monitor learns which one, and ends
            # this process with that message.
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
        self._check_own_pause()
        self._beat += 1
        sign = f"{self._beat} {self._step} {socket.gethostname()}"
        self._store.key_value_set(f"{_ALIVE}/{self._index}", sign, allow_overwrite=True)
        failed = self._read(_FAILED)
        failed.pop(self._index, None)
        for index, reason in failed.items():
            status, line = reason.split(" ", 1)
            if self._index == 0:
                time.sleep(
                    3 * POLL_SECONDS
                )  # the store ends with process 0, and JAX then aborts processes that still use it
            self._end(
                f"process {index} ended: {line}", int(status)
            )  # so that a scheduler gets the same status from all processes
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
        """Tells all processes that one of them has ended, and waits until they have read it."""
        self._store.key_value_set(f"{_FAILED}/{index}", f"{status} {line}", allow_overwrite=True)
        time.sleep(2 * POLL_SECONDS)

    def _read(self, folder: str) -> dict[int, str]:
        return {int(key.rsplit("/", 1)[1]): value for key, value in self._store.key_value_dir_get(folder)}

    def _watch_coordinator(self) -> None:
        while not self._closed.wait(POLL_SECONDS / 2):
            self._check_own_pause()
            before, self._looked = self._looked, time.monotonic()
            if self._looked - before > SLOW_SECONDS:
                self._answered = self._looked  # this process itself was stopped for a while
            if self._looked - self._answered > SILENT_SECONDS + POLL_SECONDS:
                self._lose_coordinator("it does not answer")
            if self._index > 0 and _aborting() and not _listens(self._address):
                self._lose_coordinator("it has closed the connection")

    def _check_own_pause(self) -> None:
        """Ends this process if it was stopped for so long that the others have given it up."""
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
        """Ends this process at once; an orderly exit would wait for the lost process."""
        os._exit(LOST if self._status is None else self._status)

    def _complain(self, line: str, status: int) -> bool:
        """Prints why this process ends, on a line of its own even if there is a progress bar.

        Returns:
          Whether no other thread has printed a reason. If one has, this thread waits until the others are told.
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
    """Finds slow and lost processes, for process 0.

    Attributes:
      lost: number of the lost process, and the reason; None while no process is lost.

    Args:
      count: number of processes.
    """

    def __init__(self, count: int) -> None:
        self.lost: tuple[int, str] | None = None
        self._signs: dict[int, str] = {}
        self._changed: dict[int, float] = {}
        self._behind: dict[int, float] = {}  # time since which each process is behind
        self._named: dict[int, float] = {}  # how long each was behind when the log named it last
        self._count = count

    def update(self, signs: dict[int, str], now: float) -> list[str]:
        """Takes the newest heartbeats.

        Args:
          signs: "BEAT STEP HOST" of each process, or "done".
          now: time in seconds.

        Returns:
          Lines for standard error.
        """
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
        """Returns one line about a slow process, or none if the last one is too recent; the pause doubles."""
        since = min(self._behind.setdefault(index, now), self._changed[index])
        lasted = now - since
        if lasted < max(SLOW_SECONDS, 2 * self._named.get(index, 0)):
            return []
        self._named[index] = lasted
        where = f" on {_host(self._signs[index])}" if index in self._signs else ""
        position = f"before step {front}" if step < front else "silent"
        return [f"waiting for process {index}{where}: {position} for {lasted:.0f} s"]


@contextlib.contextmanager
def monitored(advice: str) -> Iterator[Heartbeat | None]:
    """Exchanges heartbeats with the other processes while the block runs. An error in the block ends all processes.

    Args:
      advice: what the user should do after a process was lost.

    Yields:
      The heartbeat; None in a run of one process, whose errors are raised as usual.
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
    """Delays an abort of this process by six seconds, in which the monitor can print the reason.

    JAX aborts a process at once when process 0 closes the connection. The handler is the C library's `sleep`, one of
    the few functions that a signal handler may call. Its argument is the number of the signal, which is 6.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal.restype = ctypes.c_void_p
    library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))


def _aborting() -> bool:
    """Returns whether a thread is in the handler of `_delay_aborts`, where it blocks SIGABRT, not SIGSEGV (Linux)."""
    for thread in Path("/proc/self/task").glob("*/status"):
        with contextlib.suppress(OSError):  # a thread that has ended
            mask = int(re.findall(r"^SigBlk:\s*(\w+)", thread.read_text(), re.MULTILINE)[0], 16)
            if mask >> signal.SIGABRT - 1 & 1 and not mask >> signal.SIGSEGV - 1 & 1:
                return True
    return False


def _listens(address: str) -> bool:
    """Returns whether HOST:PORT accepts connections."""
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=POLL_SECONDS):
            return True
    except OSError:
        return False


def _host(sign: str) -> str:
    return sign.split()[2]
