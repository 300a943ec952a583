"""If these fail, the benchmarks measure, compare or record something else than they say."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import processes, records, tables, timing
from benchmarks.harness.timing import Timings

TIMINGS = Timings({"ours": [1.0, 4.0, 3.0], "slow": [4.0, 9.0, 6.0], "fast": [2.0, 5.0, 2.0]})


def test_calls_take_turns_and_warm_up_is_not_counted() -> None:
    made: list[str] = []
    calls = {"a": lambda: made.append("a"), "b": lambda: made.append("b")}
    timings = timing.in_turns(calls, rounds=3, warm_up=2, pause=0)
    assert made == ["a", "b"] * 5
    assert [len(seconds) for seconds in timings.seconds.values()] == [3, 3]
    assert all(second >= 0 for seconds in timings.seconds.values() for second in seconds)


def test_ratios_are_within_rounds() -> None:
    assert TIMINGS.median("ours") == 3
    assert TIMINGS.fastest(["slow", "fast"]) == "fast"
    assert TIMINGS.fastest([]) is None
    assert TIMINGS.ratio("ours", "fast") == pytest.approx(0.8)  # The ratios are 0.5, 0.8 and 1.5.


def test_summary_is_of_peers_only() -> None:
    found = TIMINGS.summary(["slow", "fast"])
    assert found["fastest_peer"] == "fast"  # This package is not a peer.
    assert found["ratio_to_fastest_peer"] == pytest.approx({"ours": 0.8, "slow": 2.0, "fast": 1.0})
    assert TIMINGS.summary([])["ratio_to_fastest_peer"]["ours"] is None


def test_the_only_setting_is_the_fastest_without_a_call() -> None:
    assert timing.fastest_setting({"one": pytest.fail}) == "one"


def test_comparison() -> None:
    expected = """\
|      | median ms | lowest | highest | images/s | time / fastest peer's | MB |
| ours |      3000 |   1000 |    4000 |     1.33 |                  0.80 |  7 |
| slow |      6000 |   4000 |    9000 |     0.67 |                  2.00 |    |
| fast |      2000 |   2000 |    5000 |     2.00 |                  1.00 |    |"""
    found = tables.comparison(TIMINGS, ["slow", "fast"], "images", 4, {"MB": {"ours": "7"}})
    assert [_cells(line) for line in found.splitlines() if "--" not in line] == [
        _cells(line) for line in expected.splitlines()
    ]
    assert len({len(line) for line in found.splitlines()}) == 1


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_peak_memory_is_what_a_call_takes() -> None:
    size = 200_000_000
    peak = processes.peak_memory(lambda: np.ones(size, np.uint8))
    if peak is None:
        pytest.skip("this system does not tell the peak")
    assert 0.95 * size < peak < 1.2 * size  # The kernel counts pages a little late.


def test_file_has_the_figures_and_where_they_were_taken(tmp_path: Path) -> None:
    records.write(tmp_path / "new" / "result.json", {"figure": 1})
    written = json.loads((tmp_path / "new" / "result.json").read_text())
    assert written["figure"] == 1
    assert {"device", "cores", "versions", "load_average"} <= written["environment"].keys()
    assert written["environment"]["versions"].keys() >= {"jax", "torch"}
    records.write(None, {})  # Without a path nothing is written.


def test_failures_end_the_process_after_the_file_is_written(tmp_path: Path) -> None:
    records.finish(tmp_path / "good.json", {"figure": 1})
    with pytest.raises(SystemExit, match="one\ntwo"):
        records.finish(tmp_path / "bad.json", {"figure": 2}, ["one", "two"])
    assert json.loads((tmp_path / "bad.json").read_text())["figure"] == 2


def test_compact_table() -> None:
    rows = [["a", "1"], ["b", ""]]
    assert tables.compact(["x", "y"], rows, "lr") == "| x | y |\n|---|---:|\n| a | 1 |\n| b |  |"
    assert tables.compact(["x", "y"], []) == "| x | y |\n|---|---|"


def test_a_command_is_measured() -> None:
    program = "import sys; data = bytes(200_000_000); print('out'); print('err', file=sys.stderr); sys.exit(3)"
    ended = processes.run([sys.executable, "-c", program])
    assert (ended.status, ended.stdout, ended.stderr) == (3, "out\n", "err\n")
    assert ended.seconds > 0
    assert ended.peak is not None
    assert ended.peak > 2e8


def test_a_command_that_does_not_end_is_killed() -> None:
    ended = processes.run([sys.executable, "-c", "import time; time.sleep(600)"], timeout=0.5)
    assert ended.status == -9
    assert ended.seconds < 60


def test_a_command_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="status 2\nreason"):
        processes.run_python("-c", "import sys; print('reason'); sys.exit(2)")
