"""If these fail, images in pipes are spoilt by messages, or a terminal fills with the bytes of an image."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seemore_jax as sj
from seemore_jax.command_line import main
from tests.support.needs import without_kernel_warning
from tests.support.odd_images.encoders import png, saved
from tests.support.release import ported, release_model

CONFIG = sj.SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1)
RGB = np.random.default_rng(1).integers(0, 256, (20, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    sj.save(ported(release_model(CONFIG), CONFIG), path)
    return str(path)


class Piped:
    """What a command read and wrote, with streams that are no terminals."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, content: bytes, arguments: list[str], terminal: str = ""):
        self.streams = {"stdin": io.BytesIO(content), "stdout": io.BytesIO()}
        for name, stream in self.streams.items():
            text = io.TextIOWrapper(stream, write_through=True)
            monkeypatch.setattr(text, "isatty", lambda name=name: name == terminal, raising=False)
            monkeypatch.setattr(sys, name, text)
        self.status = main(arguments)
        sys.stdout.flush()
        self.output = self.streams["stdout"].getvalue()


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes, *arguments: str, terminal: str = "") -> Piped:
    return Piped(monkeypatch, content, list(arguments), terminal)


def image_of(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("output", [[], ["-o", "-"]], ids=str)
def test_a_stream_is_upscaled_into_a_stream(
    model: str, output: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = piped(monkeypatch, png(RGB), "-", *output, "-m", model)
    assert done.status == 0
    np.testing.assert_array_equal(np.asarray(image_of(done.output)), sj.upscale(sj.load(model), RGB))
    assert capsys.readouterr().err == "standard output.png: 24×20 → 48×40\n"


def test_the_format_of_a_stream_can_be_chosen_and_is_else_that_of_a_file(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = piped(monkeypatch, saved(RGB, "JPEG"), "-", "--format", "jpg", "--quality", "40", "-m", model, "--quiet")
    assert image_of(done.output).format == "JPEG"
    frames = [Image.fromarray(np.roll(RGB, n, axis=0)) for n in range(3)]
    animation = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    done = piped(monkeypatch, animation, "-", "-m", model)
    assert image_of(done.output).format == "GIF"
    assert image_of(done.output).n_frames == 3  # type: ignore[attr-defined]


def test_one_of_both_may_be_a_file(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(png(RGB))
    done = piped(monkeypatch, b"", str(tmp_path / "a.png"), "-o", "-", "-m", model)
    assert image_of(done.output).size == (48, 40)
    assert str(tmp_path / "a.png") not in done.output.decode(errors="replace")
    done = piped(monkeypatch, png(RGB), "-", "-o", str(tmp_path / "b.png"), "-m", model)
    assert done.status == 0
    assert done.output.decode() == f"{tmp_path / 'b.png'}: 24×20 → 48×40\n"
    assert image_of((tmp_path / "b.png").read_bytes()).size == (48, 40)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "standard input: is empty: it has no bytes"),
        (png(RGB)[:-30], "standard input: not a readable image ("),
        (b"\0\0\0\x18ftypmp42", "standard input: not supported: a video"),
        (b"words", "standard input: not supported: a file of no known format"),
    ],
)
def test_a_stream_that_is_no_image_gives_one_line_and_no_output(
    model: str, content: bytes, error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = piped(monkeypatch, content, "-", "-m", model)
    printed = capsys.readouterr().err
    assert done.status == 2
    assert done.output == b""
    assert printed.startswith(f"error: {error}")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("terminal", ["stdin", "stdout"])
def test_a_terminal_is_refused(
    model: str, terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = piped(monkeypatch, png(RGB), "-", "-o", "-", "-m", model, terminal=terminal)
    assert done.status == 2
    assert done.output == b""
    names = {"stdin": "standard input", "stdout": "standard output"}
    assert capsys.readouterr().err.startswith(f"error: {names[terminal]} is a terminal")


def test_a_stream_is_one_image(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-", str(tmp_path / "a.png"), "-m", model]) == 2
    assert "give one INPUT" in capsys.readouterr().err
    (tmp_path / "a.png").write_bytes(png(RGB))
    (tmp_path / "b.png").write_bytes(png(RGB))
    assert main([str(tmp_path), "-o", "-", "-m", model]) == 2
    assert "standard output.png: is one file, but there are 2 inputs" in capsys.readouterr().err


def test_the_report_names_the_streams(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, png(RGB), "-", "-m", model, "--json", str(tmp_path / "r.json"))
    (entry,) = json.loads((tmp_path / "r.json").read_text())
    assert (entry["input"], entry["output"]) == ("standard input", "standard output.png")


@pytest.mark.thorough
def test_in_a_pipe_of_a_shell(model: str, tmp_path: Path) -> None:
    """Nothing but the image is on standard output, whatever libraries print; a reader that ends early is one line."""
    (tmp_path / "a.png").write_bytes(png(RGB))
    python = f"{sys.executable} -m seemore_jax"
    command = f"{python} - -m {model} < {tmp_path}/a.png > {tmp_path}/b.png && {python} - -m {model} < {tmp_path}/b.png"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    assert image_of(done.stdout).size == (96, 80)
    early = f"{python} - -m {model} --format tiff --quiet < {tmp_path}/b.png | true"
    done = subprocess.run(["bash", "-c", early + "; exit ${PIPESTATUS[0]}"], capture_output=True, check=False)
    assert done.returncode in (0, 2)  # 0: all fitted into the pipe's buffer before the reader ended
    assert without_kernel_warning(done.stderr.decode()) in (
        "",
        "error: standard output: cannot be written: Broken pipe\n",
    )
