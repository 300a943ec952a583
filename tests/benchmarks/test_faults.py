"""If these fail, the benchmark of faults overlooks a run that went wrong."""

import pytest

from benchmarks.fault_cases import LOST, Outcome, line_in_each
from benchmarks.faults import failures_of


def test_failures_are_found() -> None:
    fine = Outcome("x", [1, -9], 20.0, "error: process 1 ended", 3, True)
    waits = Outcome("x", [0, 0], None, "waiting for process 1", None, True)
    assert failures_of({"fine": fine, "waits": waits}) == []
    bad = {
        "late": Outcome("x", [1, 1], 61.0, "error", 3, True),
        "silent": Outcome("x", [1, 1], 1.0, "", 3, True),
        "other": Outcome("x", [1, 1], 1.0, "error", 3, False),
        "ended": Outcome("x", [0, 1], None, "waiting", 3, True),
        "unhurt": Outcome("x", [0, 0], 1.0, "error", 3, True),
    }
    assert [line.split(":")[0] for line in failures_of(bad)] == list(bad)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("error: process 1 ended: lost: no sign of life from vm for 20 s; start all", True),
        ("error: process 0 on vm, which coordinates the run, is lost: it does not answer", True),
        ("F1123 19:16:36.065059   16513 client.h:80] another task died", False),  # JAX does not name the process
        ("training: 5%", False),
    ],
)
def test_lines_are_recognised(line: str, found: bool) -> None:
    assert line_in_each([f"a\rtraining\r{line}\n"], LOST) == (line if found else "")


def test_each_process_has_to_say_it() -> None:
    told = "W1123 19:16:36.065059   16513 watch.py:80] error: process 0, which coordinates the run, is lost\n"
    assert line_in_each([told, told], LOST) == "error: process 0, which coordinates the run, is lost"
    assert line_in_each([told, "training\n"], LOST) == ""
