"""What tests need that pip does not install with them. Where it is missing they are left out, and the end says so.

SEEMORE_REQUIRE=chromium,compiler makes a missing one of these a failure instead.
"""

import importlib.util
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

DATA = Path(os.environ.get("SEEMORE_DATA", Path(__file__).parents[3] / "shared" / "data"))


class Need(NamedTuple):
    """One of them: what the end of the test run calls its absence, what to do about it, and whether it is there."""

    missing: str
    remedy: str
    present: Callable[[], bool]


NEEDS = {
    "chromium": Need(
        "no Chromium",
        "apt-get install chromium chromium-driver",
        lambda: None not in (shutil.which("chromium"), shutil.which("chromedriver")),
    ),
    # Not `native.available()`: kernels that no longer compile have to fail, and not to be left out.
    "compiler": Need(
        "no C++ compiler",
        "apt-get install g++, or CXX=its name",
        lambda: shutil.which((os.environ.get("CXX", "c++").split() or [""])[0]) is not None,
    ),
    "images": Need(
        "no images",
        f"set SEEMORE_DATA to the folder that holds benchmark/ and train/, which {DATA} does not",
        lambda: all((DATA / folder).is_dir() for folder in ("benchmark", "train")),
    ),
    "libtpu": Need("no libtpu", "make test-tpu-compile", lambda: importlib.util.find_spec("libtpu") is not None),
}


def required() -> list[str]:
    """The needs that must be there.

    Raises:
      pytest.UsageError: SEEMORE_REQUIRE has an unknown name.
    """
    names = [name for name in os.environ.get("SEEMORE_REQUIRE", "").split(",") if name]
    if unknown := set(names) - NEEDS.keys():
        raise pytest.UsageError(f"SEEMORE_REQUIRE: {', '.join(sorted(unknown))} is none of {', '.join(NEEDS)}")
    return names


def require(name: str) -> None:
    """Leaves the test that calls this out if that need is missing, or fails if it must be there."""
    need = NEEDS[name]
    if not need.present():
        message = f"{need.missing}: {need.remedy}"
        if name in required():
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


def summary(reasons: Iterable[str]) -> str:
    """One line about all tests that were left out, from why each one was: up to a colon that is the kind."""
    kinds = Counter(reason.removeprefix("Skipped: ").partition(":")[0] for reason in reasons)
    count = kinds.total()
    counts = ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))
    return f"left out: {count} {'test' if count == 1 else 'tests'}: {counts}"


def pytest_configure(config: pytest.Config) -> None:
    """The mark, and a wrong SEEMORE_REQUIRE before anything is run."""
    config.addinivalue_line("markers", f"needs(name): left out without it; one of {', '.join(NEEDS)}")
    required()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture is made: none has to be ended again for a test that is left out."""
    for mark in item.iter_markers("needs"):
        require(*mark.args)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was left out, and why, in one line; -rs lists the tests."""
    reports = terminalreporter.stats.get("skipped", [])
    if reports:
        terminalreporter.write_line(summary(report.longrepr[2] for report in reports))
