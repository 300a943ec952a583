"""If these fail, the command that a GPU is to run would not notice wrong values or a missed goal."""

import pytest

from benchmarks import on_gpu


@pytest.mark.thorough
@pytest.mark.needs("compiler")
def test_the_kernels_are_compared_with_the_plain_network() -> None:
    assert 0 < on_gpu.largest_difference("T-x2", "float32", (16, 20)) <= 2e-5


def test_a_missed_goal_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"median_seconds": {"ours": 1.0, "theirs": 2.1, "slow": 1.9}}
    assert on_gpu._missed("inference", figures, "ours", "theirs") == []
    assert on_gpu._missed("inference", figures, "ours", "slow") == ["inference misses its goal"]
    assert on_gpu._missed("inference", {}, "ours", "slow") == ["there are no times of ours and slow for inference"]
    assert "2.10 times the speed" in capsys.readouterr().out
