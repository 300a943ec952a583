"""If these fail, feature maps go to a file though there is memory for them, or are kept where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from seemore_jax import memory


def test_there_is_free_memory() -> None:
    assert 10**8 < memory.free_memory() < 10**14


def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"memory.max": "5000", "memory.current": "2000"}
    monkeypatch.setattr(Path, "read_text", lambda path: contents[path.name])
    assert memory.free_memory() == 3000
    contents["memory.max"] = "max"
    assert memory.free_memory() > 10**8


_TOUCHED_TWICE = """
import resource
from seemore_jax.memory import keep_freed_memory
import numpy as np
keep_freed_memory()
np.ones(10**8, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(10**8, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_used_again() -> None:
    process = subprocess.run([sys.executable, "-c", _TOUCHED_TWICE], capture_output=True, text=True, check=True)
    assert int(process.stdout) < 1000  # pages, of 24,000
