"""Shared set-up: shape checks, one compilation cache, single-threaded PyTorch, and the real images."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.support import needs, runtime_checks
from tests.support.needs import pytest_configure, pytest_runtest_setup, pytest_terminal_summary  # noqa: F401 (hooks)
from tests.support.start import start_afresh

start_afresh()

# Compilation dominates these tests: workers and later runs share what was compiled. JAX reads this at its import.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# The tests compare the kernels themselves, for dozens of small networks; tests of the self-check switch it on.
os.environ["SEEMORE_SELF_CHECK"] = "0"

# Shapes in annotations are checked at run time; this must precede the first import of the package.
jaxtyping.install_import_hook("seemore_jax", f"{runtime_checks.__name__}.check")

# Examples compile programs and touch the disk, so they have no common deadline; and a failure repeats.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")

torch.set_num_threads(1)  # there is one test process for each core


_TOGETHER = ("tests/training/", "tests/launch/", "tests/network/test_transformations.py")


class _Scheduling(LoadScopeScheduling):
    """Gives the tests to the workers one by one, but those of a module in _TOGETHER all to the same one.

    Those of training share runs, and start several processes themselves, of which twice as many would only wait for
    each other; launchers end what another attempt has left running on the same host; transformations share the results
    that they expect.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(_TOGETHER) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    """Whatever --dist says: its groups by marks have no effect with pytest 9.2 and pytest-xdist 3.8."""
    return _Scheduling(config, log)


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """The folder with Set5 and Set14."""
    needs.require("images")
    return needs.DATA / "benchmark"


@pytest.fixture(scope="session")
def kodak() -> Path:
    """The folder with the Kodak images."""
    needs.require("images")
    return needs.DATA / "valid" / "kodak"


@pytest.fixture(scope="session")
def training_data() -> Path:
    """The folder with training photographs."""
    needs.require("images")
    return needs.DATA / "train"


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switches the run-time checks off, for tests that hand over wrong types to see them refused."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def grouped_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's own depthwise convolutions, for programs that are compiled and hardly run: half the time to compile.

    tests/network/test_depthwise.py compares them with what stands in their place.
    """
    from jax import lax  # not before the environment is set, above

    monkeypatch.setattr("seemore_jax.network.depthwise.sum_of_shifted_products", lax.conv_general_dilated)
