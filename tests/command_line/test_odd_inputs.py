"""If these fail, an odd input ends otherwise than the documentation says: it is lost, spoilt, or called wrongly."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import seemore_jax as sj
from seemore_jax.command_line import main
from seemore_jax.data import formats
from tests.support.odd_images.encoders import png
from tests.support.odd_images.ends import End, inputs
from tests.support.odd_images.files import HEIGHT, WIDTH
from tests.support.release import ported, release_model

CONFIG = sj.SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1)
RGB = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    sj.save(ported(release_model(CONFIG), CONFIG), path)
    return str(path)


def put(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    return path


def facts_of(path: Path) -> tuple[int, list[int]]:
    """The number of images in a file, and width and height of the first one. Pillow does not open every 16-bit TIFF."""
    if path.suffix in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as file:
            return len(file.pages), [file.pages.first.imagewidth, file.pages.first.imagelength]
    with Image.open(path) as image:
        return getattr(image, "n_frames", 1), list(image.size)


def wrong(entry: dict[str, Any], name: str, end: End) -> list[str]:
    """What is wrong with an entry of the report, compared with the table."""
    found = {"status": entry["status"], "error": entry.get("error", "")}
    if end.status != "made":
        ok = found["status"] == end.status and end.error in found["error"] and "\n" not in found["error"]
        return [] if ok else [f"{name!r}: {found}, not {end}"]
    if found["status"] != "made":
        return [f"{name!r}: {found}"]
    output = Path(entry["output"])
    size = [2 * HEIGHT, 2 * WIDTH] if end.sideways else [2 * WIDTH, 2 * HEIGHT]
    count, found_size = facts_of(output)
    facts = {"output": output.suffix, "images": count, "size": found_size, "to": entry["to"]}
    expected = {"output": end.output, "images": end.images, "size": size, "to": size}
    return [] if facts == expected else [f"{name!r}: {facts}, not {expected}"]


@pytest.mark.thorough
def test_each_input_ends_as_the_table_says(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = inputs()
    assert len(table) >= 60
    paths = {str(put(tmp_path / "in", name, content)): (name, end) for name, (content, end) in table.items()}
    report = tmp_path / "report.json"
    status = main(["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", model, "--json", str(report)])
    assert status == 1
    entries = {entry["input"]: entry for entry in json.loads(report.read_text())}
    assert set(entries) == set(paths)
    assert [line for path, (name, end) in paths.items() for line in wrong(entries[path], name, end)] == []
    made = {entry["output"] for entry in entries.values() if entry["status"] == "made"}
    assert {str(path) for path in (tmp_path / "out").rglob("*") if path.is_file()} == made
    printed = capsys.readouterr()
    counts = [sum(end.status == kind for _, end in paths.values()) for kind in ("made", "failed", "not supported")]
    assert f"{counts[0]} made, 0 skipped, {counts[1]} failed, not supported: " in printed.out
    listed = printed.out.partition("not supported: ")[2].split(", ")
    assert sum(int(kind.split()[0]) for kind in listed) == counts[2]
    assert "2 .mp4" in printed.out
    assert printed.err.count("\n") == counts[1]


def test_a_file_of_another_format_is_called_not_supported(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in {
        "x.mp4": b"\0\0\0\x18ftypmp42",
        "x.xyz": b"what is it",
        "x": b"what",
        "x.svg": b"<svg/>",
    }.items():
        path = put(tmp_path, name, content)
        assert main([str(path), "-o", str(tmp_path / "o.png"), "-m", model]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith(f"error: {path}: not supported: ")
        assert "damaged" not in printed
        assert printed.count("\n") == 1


def test_what_is_not_supported_changes_no_exit_status(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in", "a.png", png(RGB))
    for name in ("b.mp4", "c.MP4", "d.txt", "e"):
        put(tmp_path / "in", name, b"no image")
    arguments = ["-o", str(tmp_path / "out"), "-m", model, "--json", str(tmp_path / "r.json")]
    for given in (str(tmp_path / "in"), str(tmp_path / "in" / "*")):
        assert main([given, *arguments, "--overwrite"]) == 0
        assert capsys.readouterr().out.endswith(
            "1 made, 0 skipped, 0 failed, not supported: 2 .mp4, 1 .txt, 1 without a suffix\n"
        )
        entries = json.loads((tmp_path / "r.json").read_text())
        assert sorted(entry["status"] for entry in entries) == ["made"] + ["not supported"] * 4
    # Named by the user, such a file fails.
    assert main([str(tmp_path / "in" / "a.png"), str(tmp_path / "in" / "b.mp4"), *arguments]) == 1
    (tmp_path / "in" / "a.png").unlink()
    assert main([str(tmp_path / "in"), *arguments]) == 2
    assert "no images among 4 files" in capsys.readouterr().err


def test_without_the_extra_heic_is_named_with_its_remedy(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heic, _ = inputs()["photo.heic"]
    path = put(tmp_path / "in", "a.heic", heic)
    put(tmp_path / "in", "b.jpg", heic)
    put(tmp_path / "in", "c.png", png(RGB))
    monkeypatch.setattr(formats, "HEIC_MODULE", "no_such_module")
    assert main([str(path), "-m", model]) == 2
    remedy = "pip install 'seemore-jax[heic]'"
    assert capsys.readouterr().err == f"error: {path}: not supported: HEIC needs pillow-heif: {remedy}\n"
    assert main([str(tmp_path / "in"), "-m", model]) == 1
    printed = capsys.readouterr()
    assert printed.out.endswith(f"1 made, 0 skipped, 1 failed, not supported: 1 .heic ({remedy})\n")
    assert f"b.jpg: not supported: HEIC needs pillow-heif: {remedy}" in printed.err


def test_a_folder_that_cannot_be_read_is_reported(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "in", "a.png", png(RGB))
    put(tmp_path / "in", "secret/b.png", png(RGB))
    scandir = os.scandir

    def denied(path: Any) -> Any:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", denied)  # root may read every folder
    assert main([str(tmp_path / "in"), "-m", model]) == 1
    printed = capsys.readouterr()
    assert "1 made, 0 skipped, 1 failed" in printed.out
    assert f"{tmp_path / 'in' / 'secret'}: the folder cannot be read: Permission denied" in printed.err
