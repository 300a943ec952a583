"""If these tests fail, files are left out, upscaled twice, or written to a wrong name, or an input is overwritten."""

from pathlib import Path

import pytest

import seemore_jax as sj
from seemore_jax.data.images import ImageError, read_picture
from seemore_jax.inference.jobs import Job, find_sources, is_image_file, name_jobs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a working folder with in/a.png, in/b.JPG, in/sub/a.png, in/.hidden.png and in/notes.txt."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.JPG", "sub/a.png", "sub/.git/x.png", ".hidden.png", "notes.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def jobs(*inputs: str, output: str = "out", suffix: str = "_x2", extension: str = ".png") -> dict[str, str]:
    named = name_jobs(find_sources(inputs, Path(output)), Path(output), suffix, extension)
    assert all(job.error is None for job in named)
    return {str(job.source): str(job.target) for job in named}


def test_folders_keep_their_subfolders(folder: Path) -> None:
    expected = {"in/a.png": "out/a_x2.png", "in/b.JPG": "out/b_x2.png", "in/sub/a.png": "out/sub/a_x2.png"}
    assert jobs("in") == expected
    assert list(jobs("in/", "in/a.png", "./in/a.png")) == list(expected)  # each file once
    assert jobs("in/sub", extension=".webp", suffix="-big") == {"in/sub/a.png": "out/a-big.webp"}


def test_of_several_inputs_folders_keep_their_names(folder: Path) -> None:
    assert jobs("in/a.png", "in/sub") == {"in/a.png": "out/a_x2.png", "in/sub/a.png": "out/sub/a_x2.png"}


def test_patterns_are_what_the_shell_would_make_of_them(folder: Path) -> None:
    assert jobs("in/*.JPG") == {"in/b.JPG": "out/b_x2.png"}
    everything = {"in/a.png": "out/a_x2.png", "in/b.JPG": "out/b_x2.png", "in/sub/a.png": "out/sub/a_x2.png"}
    assert jobs("in/*") == everything
    assert jobs("in/**/*.JPG") == {"in/b.JPG": "out/b_x2.png"}
    assert jobs(str(folder / "in" / "?.png")) == {str(folder / "in/a.png"): "out/a_x2.png"}
    (folder / "in" / "[x].png").touch()
    assert jobs("in/[x].png") == {"in/[x].png": "out/[x]_x2.png"}  # a name that looks like a pattern


def test_what_is_missing_is_left_for_reading_to_report(folder: Path) -> None:
    assert jobs("missing.png", "none*.png") == {"missing.png": "out/missing_x2.png", "none*.png": "out/none*_x2.png"}
    (folder / "empty").mkdir()
    with pytest.raises(sj.InputError, match="no images"):
        find_sources(["empty"], folder / "out")


def test_a_second_run_takes_no_output_for_an_input(folder: Path) -> None:
    first = jobs("in", output="in")
    for target in first.values():
        Path(target).touch()
    assert jobs("in", output="in") == first
    inside = jobs("in", output="in/large")
    for target in inside.values():
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    assert not any("large" in source for source in jobs("in", output="in/large"))


def test_files_that_differ_in_their_extension_keep_it(folder: Path) -> None:
    (folder / "in" / "a.tif").touch()
    found = jobs("in")
    assert found["in/a.png"] == "out/a_png_x2.png"
    assert found["in/a.tif"] == "out/a_tif_x2.png"
    assert found["in/sub/a.png"] == "out/sub/a_x2.png"


def errors(named: list[Job]) -> list[str]:
    return [job.error for job in named if job.error]


def test_nothing_is_overwritten_that_the_run_needs(folder: Path) -> None:
    into_itself = name_jobs(find_sources(["in/a.png"], Path("in")), Path("in"), "", ".png")
    assert "is the input itself" in errors(into_itself)[0]
    (folder / "in" / "b.png").touch()
    named = name_jobs(find_sources(["in/b.JPG", "in/b_JPG.png"], Path("in")), Path("in"), "", ".png")
    assert all(job.error or job.target.name == "b.png" for job in named)
    twice = name_jobs(find_sources(["in/a.png", "in/sub/a.png"], Path("out")), Path("out"), "_x2", ".png")
    assert "would overwrite" in errors(twice)[0]
    assert len(errors(twice)) == 1


def test_outputs_are_files_or_folders_by_their_suffix(folder: Path) -> None:
    assert is_image_file(Path("x.png"))
    assert is_image_file(Path("x.TIFF"))
    assert not is_image_file(Path("x"))
    assert not is_image_file(Path("photos.2024"))
    (folder / "odd.png").mkdir()
    assert not is_image_file(folder / "odd.png")
    for name in ("x.psd", "x.ppm", "x.heic"):
        with pytest.raises(sj.InputError, match="format"):
            is_image_file(Path(name))
    assert name_jobs(find_sources(["in/a.png"], Path("y.jpg")), Path("y.jpg"), "_x2", ".png")[0].target == Path("y.jpg")
    with pytest.raises(sj.InputError, match="one file"):
        name_jobs(find_sources(["in"], Path("y.jpg")), Path("y.jpg"), "_x2", ".png")


def test_a_suffix_leads_into_no_other_folder(folder: Path) -> None:
    assert jobs("in/a.png", suffix="..") == {"in/a.png": "out/a...png"}
    with pytest.raises(sj.InputError, match="suffix"):
        jobs("in/a.png", suffix="/../x")


def test_links_in_a_circle_are_left_for_reading_to_report(tmp_path: Path) -> None:
    (tmp_path / "circle.png").symlink_to("circle.png")
    (source,) = find_sources([str(tmp_path)], tmp_path / "out")
    (job,) = name_jobs([source], tmp_path / "out", "_x2", ".png")
    assert job.error is None
    with pytest.raises(ImageError, match=r"circle\.png"):
        read_picture(job.source)


def test_an_output_whose_name_would_be_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / ("x" * 250 + ".png")).touch()
    (tmp_path / "short.png").touch()
    named = name_jobs(find_sources([str(tmp_path)], tmp_path / "out"), tmp_path / "out", "_x2", ".png")
    assert [bool(job.error) for job in named] == [False, True]
    assert "too long" in str(named[1].error)


def test_without_an_output_files_go_beside_their_inputs(folder: Path) -> None:
    def beside(*inputs: str) -> dict[str, str]:
        named = name_jobs(find_sources(inputs, None), None, "_x2", ".png")
        return {str(job.source): str(job.target) for job in named}

    assert beside("in/a.png") == {"in/a.png": "in/a_x2.png"}
    assert beside("in/?.png") == {"in/a.png": "in/a_x2.png"}
    files = {"in/a.png": "in_x2/a_x2.png", "in/b.JPG": "in_x2/b_x2.png", "in/sub/a.png": "in_x2/sub/a_x2.png"}
    assert beside("in") == files
    assert beside("in/sub", "in/a.png") == {"in/sub/a.png": "in/sub_x2/a_x2.png", "in/a.png": "in/a_x2.png"}
    with pytest.raises(sj.InputError, match="--suffix is empty"):
        name_jobs(find_sources(["in"], None), None, "", ".png")
