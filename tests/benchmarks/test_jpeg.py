"""If these fail, the table of JPEG qualities hides blocks, or prints other figures than it measures."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import jpeg
from seemore_jax.data import write_image


def test_blocks_have_a_border_gradient_above_1() -> None:
    noise = np.random.default_rng(0).integers(100, 104, (64, 64, 3), dtype=np.uint8)
    assert jpeg.border_gradient(noise, 16) == pytest.approx(1, abs=0.1)
    blocks = noise + np.kron(np.indices((4, 4)).sum(axis=0) % 2, np.ones((16, 16), int))[..., None] * 20
    assert jpeg.border_gradient(blocks.astype(np.uint8), 16) > 5


def test_the_table_has_a_row_for_each_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, columns = np.indices((64, 64)) / 64
    image = np.stack([rows, columns, rows * columns], axis=-1) * 255
    write_image(tmp_path / "images" / "a.png", image.astype(np.uint8))
    arguments = ["--data", str(tmp_path / "images"), "--scale", "2", "--degradations", "bicubic", "jpeg:30"]
    monkeypatch.setattr(sys, "argv", ["jpeg", *arguments])
    jpeg.main()
    table = capsys.readouterr().out
    assert "×2, 1 images" in table
    cells = {}
    for name in ("bicubic", "T-x2", "T-x2-jpeg", "automatic choice"):
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
        cells[name] = row.split("|")[2:4]
        clean, compressed = (float(cell.split(" / ")[0]) for cell in cells[name])
        assert clean > compressed + 1
    assert cells["automatic choice"] == [cells["T-x2"][0], cells["T-x2-jpeg"][1]]
