"""If these tests fail, the figure of quality over pixels in the documentation is wrong."""

import csv
import re

import pytest

from benchmarks.training_curve import RUNS, draw, read_runs, total_pixels
from seemore_jax.porting.bundled import BUNDLED


def test_the_pixels_include_those_of_the_weights_that_a_training_continues() -> None:
    runs = read_runs(RUNS)
    assert runs["first T-x2"].pixels == 6_000 * 8 * 32 * 32
    assert total_pixels("T-x3", runs) == (6_000 + 12_000 + 3_500) * 8 * 32 * 32


@pytest.mark.parametrize("name", ["T-x2", "T-x3", "T-x4"])
def test_the_scores_are_those_of_the_card(name: str) -> None:
    """Otherwise, weights were replaced, and the figure shows the earlier ones."""
    card = (BUNDLED / f"{name}.md").read_text()
    with RUNS.open(newline="") as lines:
        line = next(line for line in csv.DictReader(lines) if line["run"] == name)
    scores = re.search(rf"^\| {name} \|(.*)\|$", card, re.MULTILINE)
    assert scores is not None
    psnr = [cell.split("/")[0].strip() for cell in scores[1].split("|")]
    assert psnr == [line["set5_psnr"], line["set14_psnr"], line["kodak_psnr"]]


def test_the_figure_has_a_panel_for_each_scale() -> None:
    assert [axes.get_title() for axes in draw(read_runs(RUNS)).axes] == ["×2", "×3", "×4"]
