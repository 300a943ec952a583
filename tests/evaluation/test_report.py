"""If these fail, an evaluation loses its results or reports them under wrong names."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seemore_jax import InputError, imresize
from seemore_jax.data import read_image, write_image
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.evaluation.benchmark import EvaluatedImage, Scores, bicubic_upscaler
from seemore_jax.evaluation.metrics import psnr, ssim
from seemore_jax.evaluation.report import comparison_figure, evaluate_to_folder, hardest_crop, set_table, table

RNG = np.random.default_rng(0)


def nearest(lr: np.ndarray) -> np.ndarray:
    return lr.repeat(2, axis=0).repeat(2, axis=1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, shape in {"A/HR/x": (60, 72), "A/HR/y": (131, 140), "B/HR/z": (44, 44)}.items():
        write_image(tmp_path / "data" / f"{name}.png", RNG.integers(0, 256, (*shape, 3), dtype=np.uint8))
    return tmp_path / "data"


def test_everything_is_written_and_means_are_means(data: Path, tmp_path: Path) -> None:
    sets = find_image_sets([data], 2)
    output = tmp_path / "new" / "out"
    results = evaluate_to_folder(sets, 2, nearest, "nearest", "some.pth", output)
    written = json.loads((output / "results.json").read_text())
    assert written["scale"] == 2
    assert written["weights"] == "some.pth"
    assert list(written["sets"]) == ["A", "B"]
    for image_set in sets:
        entry = written["sets"][image_set.name]
        for pair in image_set.pairs:
            lr, hr = pair.read(2)
            sr = read_image(output / image_set.name / f"{pair.name}.png")
            np.testing.assert_array_equal(sr, nearest(lr))
            assert entry["images"][pair.name] == {"psnr": psnr(sr, hr, shave=2), "ssim": ssim(sr, hr, shave=2)}
        for figure in ("psnr", "ssim"):
            assert entry[figure] == pytest.approx(np.mean([image[figure] for image in entry["images"].values()]))
        bicubic = [psnr(imresize(lr, 2), hr, shave=2) for lr, hr in (pair.read(2) for pair in image_set.pairs)]
        assert entry["bicubic"]["psnr"] == pytest.approx(np.mean(bicubic))
        assert entry["bicubic"]["psnr"] != pytest.approx(entry["psnr"])
    assert read_image(output / "comparison.png").ndim == 3
    assert "nearest" in set_table(results, "nearest")
    assert not list(output.rglob(".*"))


def test_data_is_never_overwritten(tmp_path: Path) -> None:
    write_image(tmp_path / "S" / "x.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(InputError, match="would overwrite"):
        evaluate_to_folder(find_image_sets([tmp_path / "S"], 2), 2, nearest, "nearest", "", tmp_path)
    assert (read_image(tmp_path / "S" / "x.png") == 0).all()


def test_a_perfect_result_is_null_in_json(tmp_path: Path) -> None:
    write_image(tmp_path / "flat" / "x.png", np.full((40, 40, 3), 99, np.uint8))
    evaluate_to_folder(
        find_image_sets([tmp_path / "flat"], 2), 2, bicubic_upscaler(2), "bicubic", "bicubic", tmp_path / "out"
    )
    entry = json.loads((tmp_path / "out" / "results.json").read_text())["sets"]["flat"]
    assert entry["psnr"] is None
    assert entry["images"]["x"]["psnr"] is None
    assert entry["images"]["x"]["ssim"] == pytest.approx(1)


def test_an_image_too_small_to_measure_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "flat" / "tiny.png", np.zeros((12, 12, 3), np.uint8))
    with pytest.raises(InputError, match=r"tiny.png: .* fewer than 11×11"):
        evaluate_to_folder(find_image_sets([tmp_path / "flat"], 2), 2, nearest, "nearest", "", tmp_path / "out")


def test_an_output_that_cannot_be_a_folder_is_refused_first(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be made"):
        evaluate_to_folder(find_image_sets([data], 2), 2, nearest, "nearest", "", tmp_path / "file")


def test_figure_names_its_columns_and_shows_where_bicubic_errs_most() -> None:
    hr = np.full((300, 200, 3), 50, np.uint8)
    bicubic = hr.copy()
    bicubic[230:260, 10:40] = 200
    image = EvaluatedImage("x", hr, bicubic, hr, Scores(40, 1), Scores(30, 1))
    figure = comparison_figure([hardest_crop(image, "T")] * 2)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["HR", "bicubic", "T", "", "", ""]
    shown = np.asarray(figure.axes[1].images[0].get_array())
    assert shown.shape == (96, 96, 3)
    assert (shown == 200).sum() == 30 * 30 * 3
    assert figure.axes[0].get_ylabel() == "x\nbicubic 30.00 dB\nT 40.00 dB"


@given(height=st.integers(1, 120), width=st.integers(1, 120), seed=st.integers(0, 9))
def test_the_crop_lies_inside_images_of_any_size(height: int, width: int, seed: int) -> None:
    hr, bicubic = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    crop = hardest_crop(EvaluatedImage("x", hr, bicubic, hr, Scores(1, 1), Scores(1, 1)), "T")
    side = min(96, height, width)
    assert {version.shape for version in crop.versions.values()} == {(side, side, 3)}


def test_table_is_aligned_and_rounded() -> None:
    rows = {
        "bicubic": {"Set5": Scores(28.4290, 0.81114), "a long name": Scores(math.inf, 1.0)},
        "T": {"Set5": Scores(32.3149, 0.89651), "a long name": Scores(9.999, 0.1)},
    }
    assert table(rows).splitlines() == [
        "                   Set5     a long name",
        "bicubic  28.43 / 0.8111    inf / 1.0000",
        "T        32.31 / 0.8965  10.00 / 0.1000",
    ]
