"""If these fail, a command breaks its contract: what it writes, what it prints, and its exit status."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import seemore_jax as sj
from seemore_jax.command_line import main
from seemore_jax.data import read_image, write_image
from seemore_jax.porting.names import to_torch
from seemore_jax.porting.weights import BUNDLED
from tests.support.release import ported, release_model, zeros

SMALL = sj.SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1)
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 18, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network() -> sj.SeemoRe:
    return ported(release_model(SMALL), SMALL)


@pytest.fixture
def model(network: sj.SeemoRe, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    sj.save(network, path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_image(tmp_path / "picture.png", IMAGE)
    return tmp_path / "picture.png"


@pytest.mark.parametrize("output", ["out.png", "sub/folder/out.jpg", "out.TIFF"])
def test_upscale_writes_the_file_that_is_named(model: Path, image: Path, tmp_path: Path, output: str) -> None:
    assert main(["upscale", str(image), "-o", str(tmp_path / output), "-m", str(model)]) == 0
    assert read_image(tmp_path / output).shape == (32, 36, 3)


def test_upscale_into_a_folder_names_the_file(model: Path, image: Path, tmp_path: Path) -> None:
    assert main(["upscale", str(image), "-o", str(tmp_path / "out"), "-m", str(model)]) == 0
    written = read_image(tmp_path / "out" / "picture_x2.png")
    assert len(np.unique(written)) > 100  # and not the one colour of a network that ignores the image
    np.testing.assert_array_equal(written, sj.upscale(sj.load(model), IMAGE))


def test_upscale_of_a_folder_goes_on_after_bad_files(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in" / "a.png", IMAGE)
    write_image(tmp_path / "in" / "sub" / "b.tiff", IMAGE)
    (tmp_path / "in" / "broken.png").write_bytes(b"broken")
    inputs = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model), "--json", str(tmp_path / "r.json")]
    for made, skipped in [(2, 0), (0, 2)]:
        assert main(["upscale", *inputs]) == 1
        printed = capsys.readouterr()
        assert printed.out.endswith(f"out: {made} made, {skipped} skipped, 1 failed\n")
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
    assert (tmp_path / "out" / "sub" / "b_x2.png").exists()
    outcomes = json.loads((tmp_path / "r.json").read_text())
    assert sorted(outcome["status"] for outcome in outcomes) == ["failed", "skipped", "skipped"]
    (tmp_path / "in" / "broken.png").unlink()
    assert main(["upscale", *inputs, "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "r.json").read_text())[0]["to"] == [36, 32]


def test_upscale_options(model: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    upscale = ["upscale", str(image), "-o", str(out), "-m", str(model)]
    assert main([*upscale, "--outscale", "1.5", "--format", "webp", "--device", "cpu"]) == 0
    assert read_image(out / "picture_x1.5.webp").shape == (24, 27, 3)
    assert main([*upscale, "--suffix=-large", "--tta", "--format", "jpg"]) == 0
    assert read_image(out / "picture-large.jpg").shape == (32, 36, 3)
    assert {path.name for path in out.iterdir()} == {"picture_x1.5.webp", "picture-large.jpg"}


def test_routes_plots_images_of_any_kind(model: Path, image: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "grey.png", np.zeros((20, 17), np.uint16))
    inputs = [str(image), str(tmp_path / "grey.png")]
    assert main(["routes", *inputs, "-o", str(tmp_path / "routes.png"), "-m", str(model)]) == 0
    assert min(read_image(tmp_path / "routes.png").shape[:2]) > 100
    assert main(["routes", *inputs, "-o", str(tmp_path / "routes.txt"), "-m", str(model)]) == 2


def test_convert_goes_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = sj.SeemoReConfig.variant("T", 3)
    state = release_model(config).state_dict()
    torch.save({"params": state}, tmp_path / "a.pth")
    for source, target in [("a.pth", "b.safetensors"), ("b.safetensors", "c"), ("c", "d.pth")]:
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 0
    back = torch.load(tmp_path / "d.pth", weights_only=True)["params"]
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_info_says_what_was_read_and_what_was_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"params_ema": release_model(sj.SeemoReConfig.variant("B", 4)).state_dict()}, tmp_path / "x.pth")
    assert main(["info", str(tmp_path / "x.pth"), "--topk", "2"]) == 0
    printed = capsys.readouterr().out
    for expected in ("505,952 in", "×4", "params_ema", "assumed: as in SeemoRe-B", "argument", "shapes"):
        assert expected in printed


def test_what_a_foreign_file_does_not_tell_can_be_given(tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in to_torch(zeros(SMALL)).items()}
    torch.save(tensors, tmp_path / "x.pth")
    given = ["--use_shuffle", "false", "--recursive", "1", "--topk", "2", "--img_range", "255"]
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "y"), *given]) == 0
    config = json.loads((tmp_path / "y" / "config.json").read_text())
    assert (config["use_shuffle"], config["recursive"], config["topk"], config["img_range"]) == (False, 1, 2, 255.0)


def test_wrong_inputs_give_one_line_status_2_and_no_output(
    model: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.pth").write_bytes(b"broken")
    (tmp_path / "broken.png").write_bytes(b"broken")
    (tmp_path / "file").write_text("in the way")
    before = sorted(tmp_path.rglob("*"))
    broken, missing = str(tmp_path / "broken.pth"), str(tmp_path / "missing.png")
    for arguments in [
        ["upscale", missing, "-o", str(tmp_path / "o.png"), "-m", str(model)],
        ["upscale", str(tmp_path / "broken.png"), "-o", str(tmp_path / "o.png"), "-m", str(model)],
        ["upscale", str(tmp_path), "-o", str(tmp_path / "o.png"), "-m", str(model)],
        ["upscale", str(image), "-o", str(tmp_path / "o.png"), "-m", broken],
        ["upscale", str(image), "-o", str(tmp_path / "o.psd"), "-m", str(model)],
        ["upscale", str(image), "-o", str(tmp_path / "o.png"), "-m", str(model), "--quality", "80"],
        ["upscale", str(tmp_path / "file"), "-o", str(tmp_path / "o.png"), "-m", str(model)],
        ["upscale", str(image), "-", "-o", str(tmp_path / "o"), "-m", str(model)],
        ["upscale", str(image), "-o", str(image), "-m", str(model)],
        ["upscale", str(image), "-o", str(tmp_path / "o.png"), "-m", str(model), "--recursive", "40"],
        ["upscale", str(image), "-o", str(tmp_path / "file" / "o.png"), "-m", str(model)],
        ["upscale", str(image), missing, "-o", str(tmp_path / "o.png"), "-m", str(model)],
        ["upscale", str(image), "-o", str(tmp_path / "o.png"), "-m", str(model), "--format", "jpg"],
        ["upscale", str(image), "-o", str(tmp_path / "o"), "-m", str(model), "--suffix", "/x"],
        ["upscale", str(image), "-o", str(tmp_path / "o"), "-m", str(model), "--outscale", "0"],
        ["upscale", str(image), "-o", str(tmp_path / "o"), "-m", str(model), "--max_pixels", "9"],
        ["convert", broken, str(tmp_path / "o.safetensors")],
        ["convert", str(model), str(tmp_path / "o.onnx")],
        ["convert", str(model), str(tmp_path / "file" / "o.pth")],
        ["info", broken],
        ["info", "T-x9"],
        ["demo", "-m", broken, "-o", str(tmp_path / "demo")],
    ]:
        assert main(arguments) == 2, arguments
        complaint = capsys.readouterr().err
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1
        assert "Traceback" not in complaint
    assert sorted(tmp_path.rglob("*")) == before


def test_version_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert sj.__version__ in capsys.readouterr().out
    for wrong in ([], ["enlarge"], ["upscale"], ["info", "x", "--use_shuffle", "maybe"]):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)


def test_demo_measures_photographs(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "-m", str(model), "-o", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    for name in ("astronaut", "chelsea", "coffee", "rocket", "bicubic"):
        assert name in printed
    assert read_image(tmp_path / "demo" / "photographs" / "chelsea.png").shape == (300, 450, 3)
    assert (tmp_path / "demo" / "comparison.png").exists()
    assert (tmp_path / "demo" / "experts.png").exists()


def test_images_are_upscaled_without_a_command(model: Path, image: Path, tmp_path: Path) -> None:
    assert main([str(image), "-o", str(tmp_path / "out.png"), "-m", str(model)]) == 0
    assert read_image(tmp_path / "out.png").shape == (32, 36, 3)
    assert main([str(tmp_path / "missing.jpg"), "-o", str(tmp_path / "out2.png"), "-m", str(model)]) == 2


def test_a_misspelt_command_is_no_image(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["upscal", "x.png"])
    assert "invalid choice: 'upscal'" in capsys.readouterr().err


def test_models_are_listed_with_their_purpose_and_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = sorted(path.stem for path in BUNDLED.glob("*.safetensors"))
    assert [line.split()[0] for line in lines] == names
    for line in lines:
        assert re.search(r"×[234]  \d\.\d MB  Set5 \d\d\.\d\d / 0\.\d{4}  upscaling .*\.", line), line
    assert sum("(default)" in line for line in lines) == 1


def test_an_image_alone_is_upscaled_beside_itself(model: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(image), "-m", str(model)]) == 0
    assert read_image(image.with_name("picture_x2.png")).shape == (32, 36, 3)
    assert f"{image.with_name('picture_x2.png')}: 18×16 → 36×32" in capsys.readouterr().out
    assert main([str(image), "-m", str(model)]) == 0
    assert "exists already" in capsys.readouterr().out


def test_a_scale_chooses_the_bundled_model(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(image), "-s", "3"]) == 0
    assert read_image(image.with_name("picture_x3.png")).shape == (48, 54, 3)
    assert main([str(image), "-s", "3", "-m", "T-x2"]) == 2
    assert "give either a scale or a model" in capsys.readouterr().err


def test_an_option_works_under_its_old_name_with_a_notice(
    model: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(image), "-m", str(model), "--tile", "8"]) == 0
    assert "--tile is now called --strip_rows" in capsys.readouterr().err


def test_each_file_of_a_folder_gets_its_model_and_the_summary_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Image.new("RGB", (16, 16), "teal")
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "low.jpg", quality=40)
    image.save(tmp_path / "in" / "high.jpg", quality=98)
    image.save(tmp_path / "in" / "plain.png")
    listed = tmp_path / "out.json"
    assert main([str(tmp_path / "in"), "-s", "2", "--json", str(listed)]) == 0
    assert "3 made (2 by T-x2, 1 by T-x2-jpeg), 0 skipped" in capsys.readouterr().out
    chosen = {Path(outcome["input"]).name: outcome for outcome in json.loads(listed.read_text())}
    assert {name: outcome["model"] for name, outcome in chosen.items()} == {
        "low.jpg": "T-x2-jpeg",
        "high.jpg": "T-x2",
        "plain.png": "T-x2",
    }
    assert chosen["low.jpg"]["reason"] == "for a JPEG file of quality 40"


@pytest.mark.parametrize(
    ("options", "scales"),
    [([], [2, 3, 4]), (["--scale", "4", "2"], [4, 2]), (["--scale", "4", "--scale", "2"], [4, 2])],
)
def test_prepare_takes_several_scales_however_they_are_given(
    options: list[str], scales: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, an option that is given twice silently makes only the last of two sets."""
    calls = []
    monkeypatch.setattr("seemore_jax.data.preparation.prepare", lambda *_, **given: calls.append(given["scales"]))
    main(["prepare", "image_folder", "--data_dir=data", *options])
    assert calls == [scales]
