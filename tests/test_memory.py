"""If these fail, feature maps go to a file though there is memory for them, or are kept where there is none."""

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
