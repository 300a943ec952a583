"""If these fail, the README shows Python that does not work."""

import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import seemore_jax as sj
from seemore_jax.data import write_image

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sj.save(sj.SeemoRe(sj.SeemoReConfig.variant("T", 2), rngs=nnx.Rngs(0)), "model.pth")
    write_image("photo.png", np.full((20, 16, 3), 90, np.uint8))
    exec(compile(snippet, "README.md", "exec"), {})
    assert not Path("photo_large.png").exists() or Path("photo_large.png").stat().st_size > 0
