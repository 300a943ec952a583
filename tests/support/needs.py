"""Requirements of tests that pip does not install, such as a browser or a compiler.

Tests without their requirement are skipped, and the end of the test run says so. With
SEEMORE_REQUIRE=chromium,compiler, tests without one of these requirements fail instead.
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
    """Requirement of tests.

    Attributes:
      missing: message if it is missing.
      remedy: how to install it.
      present: function that returns whether it is present.
    """

    missing: str
    remedy: str
    present: Callable[[], bool]


NEEDS = {
    "axe": Need(
        "no axe-core",
        "pip install --no-deps axe-playwright-python",  # which has the script; nothing else of it is used
        lambda: importlib.util.find_spec("axe_playwright_python") is not None,
    ),
    "chromium": Need(
        "no Chromium",
        "apt-get install chromium chromium-driver",
        lambda: None not in (shutil.which("chromium"), shutil.which("chromedriver")),
    ),
    # Not `native.available()`: if the kernels do not compile, the tests must fail and not be skipped.
    "compiler": Need(
        "no C++ compiler",
        "apt-get install g++, or CXX=its name",
        lambda: shutil.which((os.environ.get("CXX", "c++").split() or [""])[0]) is not None,
    ),
    "cuda": Need(
        "no CUDA plugin",
        "make test-gpu-compile",
        lambda: importlib.util.find_spec("jax_cuda12_plugin") is not None,
    ),
    "images": Need(
        "no images",
        f"set SEEMORE_DATA to the folder that holds benchmark/ and train/, which {DATA} does not",
        lambda: all((DATA / folder).is_dir() for folder in ("benchmark", "train")),
    ),
    "libtpu": Need("no libtpu", "make test-tpu-compile", lambda: importlib.util.find_spec("libtpu") is not None),
}


def required() -> list[str]:
    """Returns the names of the requirements in SEEMORE_REQUIRE.

    Raises:
      pytest.UsageError: SEEMORE_REQUIRE contains an unknown name.
    """
    names = [name for name in os.environ.get("SEEMORE_REQUIRE", "").split(",") if name]
    if unknown := set(names) - NEEDS.keys():
        raise pytest.UsageError(f"SEEMORE_REQUIRE: {', '.join(sorted(unknown))} is none of {', '.join(NEEDS)}")
    return names


def require(name: str) -> None:
    """Skips the calling test if a requirement is missing, or fails it if SEEMORE_REQUIRE contains the requirement.

    Args:
      name: name of the requirement, a key of `NEEDS`.
    """
    need = NEEDS[name]
    if not need.present():
        message = f"{need.missing}: {need.remedy}"
        if name in required():
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


def summary(reasons: Iterable[str]) -> str:
    """Returns a line about the skipped tests.

    Args:
      reasons: reason of each skipped test. The part before a colon is the kind by which they are counted.
    """
    kinds = Counter(reason.removeprefix("Skipped: ").partition(":")[0] for reason in reasons)
    count = kinds.total()
    counts = ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))
    return f"left out: {count} {'test' if count == 1 else 'tests'}: {counts}"


def pytest_configure(config: pytest.Config) -> None:
    """Registers the mark, and checks SEEMORE_REQUIRE before the first test."""
    config.addinivalue_line("markers", f"needs(name): left out without it; one of {', '.join(NEEDS)}")
    required()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests before their fixtures are made."""
    for mark in item.iter_markers("needs"):
        require(*mark.args)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints a line about the skipped tests; -rs lists them."""
    reports = terminalreporter.stats.get("skipped", [])
    if reports:
        terminalreporter.write_line(summary(report.longrepr[2] for report in reports))


def without_kernel_warning(printed: str) -> str:
    """Returns what a program printed, without the line with which it says that there are no CPU kernels.

    Programs print this line where there was no compiler.
    """
    lines = printed.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("there are no CPU kernels"))
