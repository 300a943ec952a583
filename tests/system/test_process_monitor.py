"""If these fail, a process that is lost is waited for for ever, or one that is only slow ends a run."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seemore_jax.system.process_monitor import SILENT_SECONDS, SLOW_SECONDS, ProcessMonitor

ROOT = Path(__file__).parents[2]


def test_a_slow_process_is_named_and_waited_for() -> None:
    monitor = ProcessMonitor(2)
    assert monitor.update({0: "1 7 here", 1: "1 7 there"}, now=0) == []
    assert monitor.update({0: "2 8 here", 1: "2 7 there"}, now=2) == []
    (line,) = monitor.update({0: "3 8 here", 1: "3 7 there"}, now=2 + SLOW_SECONDS)
    assert line.startswith("waiting for process 1 on there: before step 8 for 8 s")
    assert monitor.update({0: "4 8 here", 1: "4 7 there"}, now=4 + SLOW_SECONDS) == []
    assert monitor.update({0: "5 8 here", 1: "5 7 there"}, now=3 + 10 * SLOW_SECONDS) != []
    assert monitor.update({0: "6 8 here", 1: "6 8 there"}, now=5 + 10 * SLOW_SECONDS) == ["process 1 goes on"]
    assert monitor.lost is None


def test_a_silent_process_is_named_and_then_lost() -> None:
    monitor = ProcessMonitor(3)
    monitor.update({0: "1 7 a", 1: "1 7 b", 2: "1 7 c"}, now=0)
    (line,) = monitor.update({0: "2 7 a", 1: "1 7 b", 2: "2 7 c"}, now=SLOW_SECONDS + 1)
    assert "process 1 on b: silent for 9 s" in line
    monitor.update({0: "3 7 a", 1: "1 7 b", 2: "3 7 c"}, now=SILENT_SECONDS + 1)
    assert monitor.lost == (1, "lost: no sign of life from b for 21 s")


def test_processes_that_are_done_or_have_not_begun_are_not_lost() -> None:
    monitor = ProcessMonitor(3)
    for now in (0.0, 100.0, 200.0):
        monitor.update({0: f"{now} -1 a", 1: "done"}, now)
    assert monitor.lost is None


_PROCESS = """
import sys, time
import jax
import seemore_jax as sj
from seemore_jax.system import process_monitor

process_monitor.POLL_SECONDS, process_monitor.SILENT_SECONDS = 0.1, 1.5

class Store:
    values = {"seemore/alive/1": "1 3 there"}
    def key_value_set(self, key, value, allow_overwrite=False):
        self.values[key] = value
    def key_value_dir_get(self, folder):
        if sys.argv[1] == "unreachable":
            raise RuntimeError("connection refused")
        if sys.argv[1] == "hanging":
            time.sleep(100)
        return [(key, value) for key, value in self.values.items() if key.startswith(folder)]

if sys.argv[1] == "failed":
    Store.values["seemore/failed/1"] = "2 data: no such folder"
heartbeat = process_monitor.Heartbeat(Store(), int(sys.argv[2]), 2, "there:1", "start again").start()
ERRORS = {
    "own": OSError(28, "No space left on device"),
    "memory": jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
    "nan": sj.InputError("step 7: the loss is nan"),
    "program": TypeError("unexpected argument"),
    "collective": jax.errors.JaxRuntimeError("INTERNAL: connection closed by peer"),
}
if sys.argv[1] in ERRORS:
    begin = time.monotonic()
    exit = process_monitor.os._exit
    def ended(status):
        print("told", Store.values.get("seemore/failed/1"), "after", time.monotonic() - begin, flush=True)
        exit(status)
    process_monitor.os._exit = ended
    try:
        raise ERRORS[sys.argv[1]]
    except Exception as error:
        heartbeat.give_up(error)
if sys.argv[1] == "stopped":
    time.sleep(0.5)
    print("ready", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize(
    ("what", "index", "status", "line"),
    [
        ("failed", 0, 2, "error: process 1 ended: data: no such folder"),
        ("silent", 0, 1, "error: process 1 ended: lost: no sign of life from there for"),
        (
            "unreachable",
            1,
            1,
            "error: process 0 on there, which coordinates the run, is lost: it cannot be reached (conn",
        ),
        ("hanging", 1, 1, "error: process 0 on there, which coordinates the run, is lost: it does not answer"),
        ("own", 1, 2, "error: [Errno 28] No space left on device"),
    ],
)
def test_a_process_ends_with_a_line_that_says_why(what: str, index: int, status: int, line: str) -> None:
    command = [sys.executable, "-c", _PROCESS, what, str(index)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == status, ended.stderr
    assert line in ended.stderr
    assert ended.stderr.count("error:") == 1


@pytest.mark.parametrize(
    ("what", "status", "line", "longest"),
    [
        ("memory", 2, "out of memory on the device (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes)", 1.0),
        ("nan", 2, "step 7: the loss is nan", 1.0),
        ("program", 2, "TypeError: unexpected argument", 1.0),
        # Waits for the watch to say which process is gone, as none is here.
        ("collective", 1, "JaxRuntimeError: INTERNAL: connection closed by peer", 5.0),
    ],
)
def test_an_error_has_the_status_that_it_has_in_a_single_process(
    what: str, status: int, line: str, longest: float
) -> None:
    """And is told to the others at once, if it is not what a lost process causes."""
    command = [sys.executable, "-c", _PROCESS, what, "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == status, ended.stderr
    assert f"error: {line}" in ended.stderr
    told, seconds = ended.stdout.strip().removeprefix("told ").split(" after ")
    assert told == f"{status} {line}"
    assert float(seconds) < longest


def test_a_process_that_was_stopped_says_that_it_was_given_up() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, "stopped", "1"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1, complaint
    assert b"error: this process stood still for 3 s, and the others have given it up; start again" in complaint
    assert complaint.count(b"error:") == 1
