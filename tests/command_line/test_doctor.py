"""If these fail, a bug report lacks what is needed to understand it, or a broken machine is called healthy."""

from pathlib import Path

import jax
import pytest

from seemore_jax.command_line import doctor, main
from seemore_jax.network.implementations import native, self_check


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.needs("compiler")
def test_a_healthy_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verdict = self_check.Verdict(True, "a CPU", {"values": 4e-7, "gradients": 2e-6}, "", 1.5)
    monkeypatch.setattr(self_check, "verdict", lambda *_, **__: verdict)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for expected in (
        f"jax {jax.__version__}",
        "SeemoRe-T ×4 in float32: cpu kernels (values differ by 4.0e-07, gradients differ by 2.0e-06, relative; "
        "checked in 1.5 s)",
        f"CPU kernels: compiled for {native.level()}",
        f"cache of compiled programs: {tmp_path}",
        "GB",
        "no problem found",
    ):
        assert expected in printed


@pytest.mark.needs("compiler")
def test_kernels_that_differ_are_a_problem(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = self_check.Verdict(False, "a CPU", {"values": 0.5}, "the values of a block differ", 1.5)
    monkeypatch.setattr(self_check, "verdict", lambda *_, **__: verdict)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "problem: the cpu kernels are not used: the values of a block differ on a CPU" in printed
    assert "plain implementation, because the cpu kernels failed their check" in printed


@pytest.mark.needs("compiler")
def test_slower_kernels_are_no_problem(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"cpu": 5.0, "plain": 3.0}
    verdict = self_check.Verdict(False, "a GPU", {"values": 4e-7}, "they take 5 ms", 1.5, times)
    monkeypatch.setattr(self_check, "verdict", lambda *_, **__: verdict)
    assert main(["doctor"]) == 0
    assert "plain implementation, since the cpu kernels are slower: they take 5 ms" in capsys.readouterr().out


def test_missing_kernels_are_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "_compiled_folder", lambda: tmp_path)
    for function in ("level", "unavailable_reason", "available"):
        monkeypatch.setattr(native, function, getattr(native, function).__wrapped__)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "CPU kernels: compiled for" not in printed
    assert "problem: the CPU kernels are missing" in printed
    monkeypatch.setenv("SEEMORE_NATIVE", "0")
    assert main(["doctor"]) == 0, "who switches them off knows"
    assert "plain implementation, as SEEMORE_NATIVE=0 asks for" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_and_little_memory_are_problems(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("SEEMORE_NATIVE", "0")
    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(doctor, "free_memory", lambda: 10**9)
    _, problems = doctor.examine()
    assert sum("cannot be written" in problem for problem in problems) == 2
    assert any("only 1.0 GB of memory are free" in problem for problem in problems)


def test_figures_are_kept_as_they_were_found() -> None:
    verdict = self_check.Verdict(True, "a CPU", {"values": 4e-7}, "", 1.5)
    self_check._write("a-key", verdict)
    assert self_check._read("a-key") == verdict
    assert self_check._read("another-key") is None
