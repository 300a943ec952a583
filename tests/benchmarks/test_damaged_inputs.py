"""If these fail, `upscale` loses, spoils or gets stuck on files because of damaged and odd ones beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.damaged_inputs import Call, upscale_and_judge
from benchmarks.odd_images import Odd, odd_images, png
from seemore_jax.command_line import main
from seemore_jax.data.images import ImageError, read_picture


def test_odd_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of what `python -m benchmarks.damaged_inputs` does, in this process."""
    monkeypatch.setattr("benchmarks.odd_images.BOMB_MEGABYTES", 20)
    capsys.readouterr()

    def run(arguments: Sequence[str]) -> Call:
        status = main(arguments)
        written = capsys.readouterr()
        return Call(status, written.out, written.err)

    odds = [odd for odd in odd_images(40, 1) if odd.kind != "size"]  # whose programs take long to compile
    _, verdicts, wrong = upscale_and_judge(odds, tmp_path, run)
    assert wrong == []
    assert [f"{v.odd.name}: {v.detail}" for v in verdicts if v.result == "wrong"] == []
    assert {v.result for v in verdicts} == {"upscaled", "refused"}


def test_all_kinds_are_read_right_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.odd_images.BOMB_MEGABYTES", 20)
    odds = odd_images(600, 0)
    assert len({odd.name for odd in odds}) == len(odds) == 600
    for odd in odds:
        path = odd.put(tmp_path / "source")
        try:
            pixels = read_picture(path).pixels
        except ImageError:
            assert odd.may_refuse or not odd.readings, odd.name
        else:
            # One is refused for the name of its output, not for what it shows.
            assert odd.name.startswith("yyy") or any(np.array_equal(pixels, known) for known in odd.readings), odd.name


def test_a_run_that_goes_wrong_is_found(tmp_path: Path) -> None:
    """A command that makes the wrong pixels, leaves a file behind and says nothing of a failure."""
    image = np.zeros((8, 8, 3), np.uint8)
    odds = [Odd("a", name, b"", (image,)) for name in ("x.png", "y.png")]

    def run(arguments: Sequence[str]) -> Call:
        source, output, report = (Path(arguments[index]) for index in (1, 3, 7))
        output.mkdir()
        made, left = output / "x_x2.png", output / "left.png"
        for path in (made, left):
            path.write_bytes(png(image))
        entries = f"""[
            {{"input": "{source}/x.png", "status": "made", "output": "{made}"}},
            {{"input": "{source}/y.png", "status": "failed", "error": "broken"}}
        ]"""
        report.write_text(entries)
        return Call(0, f"{output}: 2 made, 0 skipped, 0 failed\n", "", 3 * 10**9)

    _, verdicts, wrong = upscale_and_judge(odds, tmp_path, run)
    assert [verdict.result for verdict in verdicts] == ["wrong", "wrong"]
    for complaint in ("status 0", "it printed", "standard error", "left over", "3.0 GB"):
        assert any(complaint in line for line in wrong), complaint
    assert len(wrong) == 5
