"""If these fail, a test run depends on how it was started, or reports wrongly which tests it left out."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import needs

ROOT = Path(__file__).parents[1]

_CHILD = "import os, signal; print(signal.getsignal(signal.SIGINT).__name__, sorted(os.environ))"
_PARENT = f"""
import subprocess, sys
from tests.support.start import start_afresh
start_afresh()
subprocess.run([sys.executable, "-c", {_CHILD!r}], check=True)
"""


def test_children_of_a_background_job_can_be_interrupted_and_know_no_settings() -> None:
    environment = {"PATH": os.defpath, "XLA_FLAGS": "--nonsense", "JAX_ENABLE_X64": "1", "https_proxy": "http://x"}
    command = ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, _PARENT]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("default_int_handler ")
    assert not any(name in done.stdout for name in environment.keys() - {"PATH"})


# One test of each kind: one that needs what is missing, one that fails, one that passes, and one in a parameter.
_TESTS = """
import pytest

@pytest.mark.needs("chromium")
@pytest.mark.parametrize("number", [1, 2])
def test_needs(number):
    raise AssertionError

@pytest.mark.skip(reason="no luck: try again")
def test_skipped():
    raise AssertionError

def test_passes():
    pass
"""


def run(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the tests in `_TESTS` with the project's conftest.py, in an environment without Chromium."""
    (folder / "test_it.py").write_text(_TESTS)
    environment: Mapping[str, str] = {"PATH": "/nowhere", "PYTHONPATH": str(ROOT), **variables}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.support.needs",
        "-p",
        "no:cacheprovider",
        *options,
        "test_it.py",
    ]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=str)
def test_what_is_left_out_is_said_in_one_line(options: tuple[str, ...], tmp_path: Path) -> None:
    done = run(tmp_path, *options)
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("left out")]
    assert lines == ["left out: 3 tests: no Chromium (2), no luck (1)"]


def test_what_must_be_there_fails(tmp_path: Path) -> None:
    done = run(tmp_path, SEEMORE_REQUIRE="chromium")
    assert done.returncode == 1, done.stdout
    assert "no Chromium: apt-get install chromium chromium-driver" in done.stdout
    assert "left out: 1 test: no luck (1)" in done.stdout
    done = run(tmp_path, SEEMORE_REQUIRE="chrome")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "SEEMORE_REQUIRE: chrome is none of axe, chromium, compiler, cuda, images, libtpu" in done.stderr


def test_the_line_counts_by_reason() -> None:
    assert needs.summary(["Skipped: no a: b", "no a: c", "no d"]) == "left out: 3 tests: no a (2), no d (1)"
