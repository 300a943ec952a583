"""If these fail, the table of faults says that all is well where it is not."""

import pytest

from benchmarks import faults
from benchmarks.faults import Outcome


def test_failures_are_found() -> None:
    fine = Outcome("x", [1, -9], 20.0, "error: process 1 ended", 3, True)
    waits = Outcome("x", [0, 0], None, "waiting for process 1", None, True)
    assert faults._failures({"fine": fine, "waits": waits}) == []
    bad = {
        "late": Outcome("x", [1, 1], 61.0, "error", 3, True),
        "silent": Outcome("x", [1, 1], 1.0, "", 3, True),
        "other": Outcome("x", [1, 1], 1.0, "error", 3, False),
        "ended": Outcome("x", [0, 1], None, "waiting", 3, True),
        "unhurt": Outcome("x", [0, 0], 1.0, "error", 3, True),
    }
    assert [line.split(":")[0] for line in faults._failures(bad)] == list(bad)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("error: process 1 ended: lost: no sign of life from vm for 20 s; start all", True),
        ("error: process 0 on vm, which coordinates the run, is lost: it does not answer", True),
        ("F1123 19:16:36.065059   16513 client.h:80] another task died", False),  # JAX's, which names nobody
        ("training: 5%", False),
    ],
)
def test_lines_are_recognised(line: str, found: bool) -> None:
    assert faults._said([f"a\rtraining\r{line}\n"], faults._LOST) == (line if found else "")


def test_each_process_has_to_say_it() -> None:
    told = "W1123 19:16:36.065059   16513 watch.py:80] error: process 0, which coordinates the run, is lost\n"
    assert faults._said([told, told], faults._LOST) == "error: process 0, which coordinates the run, is lost"
    assert faults._said([told, "training\n"], faults._LOST) == ""
