"""Runs commands and measures them, and measures the memory of this process."""

import ctypes
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.timing import Call

_STATUS, _RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclasses.dataclass(frozen=True)
class Ended:
    """Describes a command that has ended.

    Attributes:
      status: the exit status; a negative number is the signal that ended the command.
      stdout: what the command wrote to standard output.
      stderr: what the command wrote to standard error.
      seconds: the wall-clock time of the command, if it was measured.
      peak: the largest resident memory in bytes, if it was measured. Linux counts the memory of the parent at the
        start of the command, so that the true value may be lower.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float = 0.0
    peak: int | None = None


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float = 1200) -> Ended:
    """Runs a command to its end, or kills it after `timeout` seconds."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)
        killer = threading.Timer(timeout, process.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            killer.cancel()
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        return Ended(
            process.returncode, stdout.read().decode(), stderr.read().decode(), seconds, 1024 * usage.ru_maxrss
        )


def run_python(*arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Runs this Python with some arguments; ends this process with the output of a command that fails."""
    ended = run([sys.executable, *arguments], environment=environment)
    if ended.status != 0:
        sys.exit(f"{' '.join(arguments)}: ended with status {ended.status}\n{ended.stdout}{ended.stderr}")
    return ended


def run_child(module: str, *arguments: str) -> dict[str, Any]:
    """Runs a module in a process of its own, and returns the JSON object that it prints."""
    return json.loads(run_python("-m", module, *arguments).stdout)


def peak_memory(call: Call) -> int | None:
    """Returns the bytes of main memory that a call uses at its peak beyond those used before, or None if unknown.

    The call should have been made before, because a first call compiles programs and keeps them in memory.
    """
    if not (_STATUS.is_file() and _RESET_PEAK.is_file()):
        return None
    ctypes.CDLL(None).malloc_trim(0)  # Memory that is free, but still held by the allocator, would hide the increase.
    try:
        _RESET_PEAK.write_text("5")  # This sets the peak to the present value.
    except OSError:
        return None
    before = _bytes_in_status("VmRSS")
    call()
    return largest_memory() - before


def largest_memory() -> int:
    """Returns the largest resident memory of this process in bytes, without that of its parent (Linux only)."""
    return _bytes_in_status("VmHWM")


def _bytes_in_status(field: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
