"""If these fail, damaged and odd files make `upscale` lose or spoil other files, or never end."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.damaged_inputs import upscale_and_judge
from benchmarks.harness.processes import Ended
from seemore_jax.command_line import main
from seemore_jax.data.images import ImageError, read_picture
from seemore_jax.data.series import images_of, read_series
from tests.support.odd_images import Odd, odd_images
from tests.support.odd_images.encoders import png

BOMB_MEGABYTES = 20


@pytest.mark.thorough
def test_odd_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Does what `python -m benchmarks.damaged_inputs` does, with fewer files and in this process."""
    capsys.readouterr()

    def run(arguments: Sequence[str]) -> Ended:
        status = main(arguments)
        written = capsys.readouterr()
        return Ended(status, written.out, written.err)

    # Each size is a program that takes long to compile.
    odds = [odd for odd in odd_images(40, 1, BOMB_MEGABYTES) if odd.kind != "size"]
    _, verdicts, wrong = upscale_and_judge(odds, tmp_path, run)
    assert wrong == []
    assert [f"{v.odd.name}: {v.detail}" for v in verdicts if v.result == "wrong"] == []
    assert {v.result for v in verdicts} == {"upscaled", "refused"}


def test_all_kinds_are_read_right_or_refused(tmp_path: Path) -> None:
    odds = odd_images(600, 0, BOMB_MEGABYTES)
    assert len({odd.name for odd in odds}) == len(odds) == 600
    for odd in odds:
        path = odd.put(tmp_path / "source")
        try:
            pixels = read_picture(path).pixels
        except ImageError:
            assert odd.may_refuse or not odd.readings, odd.name
            if odd.frames:
                found = [picture.pixels for picture in images_of(read_series(path))]
                assert len(found) == len(odd.frames)
                # GIF and WebP do not store noise exactly.
                exact = path.suffix == ".tif" or path.name == "several.png"
                assert not exact or all(map(np.array_equal, found, odd.frames)), odd.name
        else:
            # The file whose name is too long for the output can be read nevertheless.
            assert odd.name.startswith("yyy") or any(np.array_equal(pixels, known) for known in odd.readings), odd.name


def test_a_run_that_goes_wrong_is_found(tmp_path: Path) -> None:
    """Judges a command that writes wrong pixels, leaves a file behind and does not print a failure."""
    image = np.zeros((8, 8, 3), np.uint8)
    odds = [Odd("a", name, b"", (image,)) for name in ("x.png", "y.png")]

    def run(arguments: Sequence[str]) -> Ended:
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
        return Ended(0, f"{output}: 2 made, 0 skipped, 0 failed\n", "", peak=3 * 10**9)

    _, verdicts, wrong = upscale_and_judge(odds, tmp_path, run)
    assert [verdict.result for verdict in verdicts] == ["wrong", "wrong"]
    for complaint in ("status 0", "it printed", "standard error", "left over", "3.0 GB"):
        assert any(complaint in line for line in wrong), complaint
    assert len(wrong) == 5
