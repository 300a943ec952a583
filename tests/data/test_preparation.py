"""If these fail, training sets are incomplete, hold wrong pairs, or cannot be prepared again after an interruption."""

import contextlib
import functools
import hashlib
import http.server
import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from seemore_jax import InputError, imresize
from seemore_jax.command_line import main
from seemore_jax.data import read_image, write_image
from seemore_jax.data.datasets import Div2k
from seemore_jax.data.datasets.div2k import div2k
from seemore_jax.data.datasets.pairs import TrainingPair
from seemore_jax.data.images import to_rgb8
from seemore_jax.data.preparation import prepare
from seemore_jax.data.stored_pairs import open_dataset
from seemore_jax.data.tiles import cut_tiles

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def random_image(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def tiles_in(name: str, data_dir: Path, scale: int) -> list[tuple[np.ndarray, np.ndarray]]:
    source = open_dataset(name, data_dir, scale)
    return [(read_bytes(source[i]["lr"]), read_bytes(source[i]["hr"])) for i in range(len(source))]


def read_bytes(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def assert_tiles_of(pairs: list[tuple[np.ndarray, np.ndarray]], name: str, data_dir: Path, scale: int) -> None:
    expected = [tile for lr, hr in pairs for tile in cut_tiles(lr, hr, scale)]
    found = tiles_in(name, data_dir, scale)
    assert len(found) == len(expected)
    for (lr, hr), (expected_lr, expected_hr) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(lr, expected_lr)
        np.testing.assert_array_equal(hr, expected_hr)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


class Archives:
    """The archives of DIV2K's website, with three small images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.hr = {f"{number:04}": random_image(24, 36) for number in (1, 2, 3)}
        self.lr = {scale: {stem: random_image(24 // scale, 36 // scale) for stem in self.hr} for scale in (2, 3, 4)}
        self.write()

    def write(self, damaged: str = "") -> None:
        with zipfile.ZipFile(self.folder / "DIV2K_train_HR.zip", "w") as archive:
            archive.writestr("DIV2K_train_HR/", "")
            for stem, image in self.hr.items():
                content = png(image)
                archive.writestr(f"DIV2K_train_HR/{stem}.png", content[:60] if stem == damaged else content)
        for scale, images in self.lr.items():
            with zipfile.ZipFile(self.folder / f"DIV2K_train_LR_bicubic_X{scale}.zip", "w") as archive:
                for stem, image in images.items():
                    archive.writestr(f"DIV2K_train_LR_bicubic/X{scale}/{stem}x{scale}.png", png(image))

    def pairs(self, scale: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(self.lr[scale][stem], self.hr[stem]) for stem in self.hr]

    def register(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        """Makes the builder download these archives, with their checksums."""
        infos = {}
        for file in self.folder.glob("*.zip"):
            content = file.read_bytes()
            checksum = hashlib.sha256(content).hexdigest()
            infos[f"{url}/{file.name}"] = tfds.download.checksums.UrlInfo(len(content), checksum, file.name)
        monkeypatch.setattr(div2k, "_ARCHIVES", url)
        monkeypatch.setattr(Div2k, "url_infos", infos)


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archives:
    """Archives that can only be given by --manual_dir, because their URL cannot be reached."""
    made = Archives(tmp_path / "archives")
    made.register(monkeypatch, "http://127.0.0.1:9")
    return made


class Handler(http.server.SimpleHTTPRequestHandler):
    served: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        self.served.append(str(args[0]))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Archives, list[str]]]:
    """Archives on a server, and the list of its requests."""
    made = Archives(tmp_path / "archives")
    served: list[str] = []
    handler = functools.partial(type("Logged", (Handler,), {"served": served}), directory=str(made.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        made.register(monkeypatch, f"http://127.0.0.1:{running.server_port}")
        yield made, served
        running.shutdown()
        thread.join()


def test_photographs_become_tiles_of_their_bicubic_pairs(
    training_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((training_data / "bsds").rglob("*.jpg"))[:2] + sorted((training_data / "t91").rglob("*.png"))[:2]
    prepare("image_folder", tmp_path, scales=(2, 3), sources=files)
    for scale in (2, 3):
        pairs = []
        for file in files:
            hr = to_rgb8(read_image(file))
            hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
            pairs.append((imresize(hr, 1 / scale), hr))
        assert_tiles_of(pairs, "image_folder", tmp_path, scale)
    shown = capsys.readouterr()
    assert "of 4 images" in shown.out
    assert "4/4" in shown.err


def test_lr_files_are_taken_and_folders_mixed(tmp_path: Path) -> None:
    lr, hr, alone = random_image(6, 5), random_image(24, 20), random_image(16, 16)
    write_image(tmp_path / "set" / "HR" / "a.png", hr)
    write_image(tmp_path / "set" / "LR_bicubic" / "X4" / "ax4.png", lr)
    write_image(tmp_path / "flat" / "b.png", alone)
    prepare("image_folder", tmp_path / "tfds", scales=[4], sources=[tmp_path / "set", tmp_path / "flat"])
    assert_tiles_of([(lr, hr), (imresize(alone, 1 / 4), alone)], "image_folder", tmp_path / "tfds", 4)


def test_more_images_than_fit_in_one_file_keep_their_order(tmp_path: Path) -> None:
    images = [random_image(8, 8) for _ in range(35)]
    for number, image in enumerate(images):
        write_image(tmp_path / "in" / f"{number:02}.png", image)
    prepare("image_folder", tmp_path, scales=[2], sources=[tmp_path / "in"])
    assert len(list((tmp_path / "image_folder/x2/1.0.0").glob("*.array_record*"))) == 3
    assert_tiles_of([(imresize(image, 1 / 2), image) for image in images], "image_folder", tmp_path, 2)


def test_div2k_is_downloaded_once_and_kept(tmp_path: Path, server: tuple[Archives, list[str]]) -> None:
    archives, served = server
    prepare("div2k", tmp_path / "tfds", scales=(2, 4))
    for scale in (2, 4):
        assert_tiles_of(archives.pairs(scale), "div2k", tmp_path / "tfds", scale)
    assert len(served) == 3
    interrupted = tmp_path / "tfds/downloads/DIV2K_train.zip.tmp.0123"
    interrupted.mkdir()
    (interrupted / "DIV2K_train.zip").write_bytes(b"half")
    prepare("div2k", tmp_path / "tfds", scales=(3, 4))
    assert len(served) == 4  # one more, for the LR images of ×3
    assert not interrupted.exists()
    assert_tiles_of(archives.pairs(3), "div2k", tmp_path / "tfds", 3)


def test_an_archive_with_another_checksum_is_refused(tmp_path: Path, server: tuple[Archives, list[str]]) -> None:
    archives, _ = server
    archives.write(damaged="0002")
    with pytest.raises(InputError, match="wrong checksum") as raised:
        prepare("div2k", tmp_path / "tfds", scales=[4])
    assert "\n" not in str(raised.value)
    # `os.walk` passes over the folder of the other archive, whose download may just be ending.
    assert "dataset_info.json" not in {name for _, _, files in os.walk(tmp_path / "tfds") for name in files}


_PREPARE = """
import sys
import tensorflow_datasets as tfds
from seemore_jax.command_line import main
from seemore_jax.data.datasets import Div2k
from seemore_jax.data.datasets.div2k import div2k

url, data_dir = sys.argv[1:]
names = ("DIV2K_train_HR.zip", "DIV2K_train_LR_bicubic_X4.zip")
Div2k.url_infos = {f"{url}/{name}": tfds.download.checksums.UrlInfo(10**9, "0" * 64, name) for name in names}
div2k._ARCHIVES = url
sys.exit(main(["prepare", "div2k", f"--data_dir={data_dir}", "--scale", "4"]))
"""


class Endless(http.server.BaseHTTPRequestHandler):
    """A server that sends archives without end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(1000))
                time.sleep(0.01)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""


def test_ctrl_c_ends_a_download_at_once(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        process = subprocess.Popen(
            [sys.executable, "-c", _PREPARE, f"http://127.0.0.1:{running.server_port}", tmp_path / "tfds"],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            while not any(file.stat().st_size for file in tmp_path.rglob("*.zip")):
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
            process.communicate()
            running.shutdown()
    assert process.returncode == 130, output
    assert output.splitlines()[-1] == "interrupted"


def test_a_failed_download_gives_one_line(tmp_path: Path, server: tuple[Archives, list[str]]) -> None:
    archives, _ = server
    (archives.folder / "DIV2K_train_HR.zip").unlink()
    with pytest.raises(InputError, match=r"download failed: .*DIV2K_train_HR\.zip") as raised:
        prepare("div2k", tmp_path / "tfds", scales=[4])
    assert "\n" not in str(raised.value)


def test_the_registered_checksums_are_those_of_the_four_training_archives() -> None:
    names = [info.filename for info in Div2k.url_infos.values()]
    assert names == ["DIV2K_train_HR.zip", *(f"DIV2K_train_LR_bicubic_X{scale}.zip" for scale in (2, 3, 4))]
    assert all(url.startswith(div2k._ARCHIVES) for url in Div2k.url_infos)


def test_the_builder_also_works_without_prepare(tmp_path: Path, archives: Archives) -> None:
    builder = Div2k(config="x4", data_dir=tmp_path / "tfds")
    config = tfds.download.DownloadConfig(manual_dir=archives.folder, try_download_gcs=False)
    builder.download_and_prepare(download_config=config, file_format="array_record")
    assert_tiles_of(archives.pairs(4), "div2k", tmp_path / "tfds", 4)


@pytest.mark.parametrize("subfolder", ["Flickr2K", "."])
def test_df2k_is_div2k_and_flickr2k(tmp_path: Path, archives: Archives, subfolder: str) -> None:
    root = archives.folder / subfolder
    lr, hr, alone = random_image(6, 5), random_image(24, 20), random_image(18, 16)
    write_image(root / "Flickr2K_HR" / "000001.png", hr)
    write_image(root / "Flickr2K_HR" / "000002.png", alone)
    write_image(root / "Flickr2K_LR_bicubic" / "X4" / "000001x4.png", lr)
    prepare("df2k", tmp_path / "tfds", scales=[4], manual_dir=archives.folder)
    flickr2k = [(lr, hr), (imresize(alone[:16], 1 / 4), alone[:16])]
    assert_tiles_of(archives.pairs(4) + flickr2k, "df2k", tmp_path / "tfds", 4)


def test_bad_images_are_all_named_or_left_out(
    tmp_path: Path, archives: Archives, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = archives.pairs(2)
    archives.lr[4]["0001"] = random_image(6, 8)  # must be 9 columns
    del archives.lr[3]["0002"]
    archives.write(damaged="0003")
    archives.register(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(InputError) as raised:
        prepare("div2k", tmp_path / "tfds", manual_dir=archives.folder)
    lines = str(raised.value).splitlines()
    assert len(lines) == 4
    assert "3 bad images" in lines[0]
    assert "0001x4.png" in lines[1]
    assert "8×6 times 4 is not 36×24" in lines[1]
    assert "0002x3.png: missing" in lines[2]
    assert "0003.png: not a readable image" in lines[3]
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))

    prepare("div2k", tmp_path / "tfds", manual_dir=archives.folder, skip_bad=True)
    assert "x2: left out bad images: 1 of 3" in (shown := capsys.readouterr().out)
    assert "x3: left out bad images: 2 of 3" in shown
    assert "x4: left out bad images: 2 of 3" in shown
    assert_tiles_of(good[:2], "div2k", tmp_path / "tfds", 2)


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(b"damaged")
    write_image(tmp_path / "in" / "y.png", random_image(1, 9))
    with pytest.raises(InputError, match=r"none of the 2 images .*x\.png"):
        prepare("image_folder", tmp_path, scales=[2], sources=[tmp_path / "in"], skip_bad=True)


def test_after_an_interruption_it_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [random_image(8, 8) for _ in range(20)]
    for number, image in enumerate(images):
        write_image(tmp_path / "in" / f"{number:02}.png", image)
    read = TrainingPair.read

    def interrupted(pair: TrainingPair, scale: int) -> tuple[np.ndarray, np.ndarray]:
        if pair.name == "in-18":  # in the second file of the second set
            raise KeyboardInterrupt
        return read(pair, scale)

    def start() -> None:
        prepare("image_folder", tmp_path / "tfds", scales=(2, 4), sources=[tmp_path / "in"])

    with monkeypatch.context() as patch:
        patch.setattr(TrainingPair, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            start()
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))
    with pytest.raises(InputError, match="no prepared dataset"):
        open_dataset("image_folder", tmp_path / "tfds", 2)

    leftover = tmp_path / "tfds/image_folder/x2/incomplete.ABC_1.0.0"  # what remains when the process is killed
    leftover.mkdir(parents=True)
    (leftover / "image_folder-train.array_record-00000-of-00002").write_bytes(b"half")
    start()
    assert not leftover.exists()
    assert_tiles_of([(imresize(image, 1 / 4), image) for image in images], "image_folder", tmp_path / "tfds", 4)


def test_a_second_preparation_at_the_same_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "in" / "x.png", image := random_image(8, 8))
    read, refused = TrainingPair.read, []

    def start(scale: int) -> None:
        prepare("image_folder", tmp_path / "tfds", scales=[scale], sources=[tmp_path / "in"])

    def meanwhile(pair: TrainingPair, scale: int) -> tuple[np.ndarray, np.ndarray]:
        with pytest.raises(InputError, match="another preparation is running") as raised:
            start(4)
        refused.append(str(raised.value))
        return read(pair, scale)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingPair, "read", meanwhile)
        start(2)
    assert refused
    assert "\n" not in refused[0]
    assert_tiles_of([(imresize(image, 1 / 2), image)], "image_folder", tmp_path / "tfds", 2)
    start(4)
    assert_tiles_of([(imresize(image, 1 / 4), image)], "image_folder", tmp_path / "tfds", 4)


def test_preparing_again_keeps_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "x.png", random_image(8, 8))
    command = ["prepare", "image_folder", f"--data_dir={tmp_path}", f"--source={tmp_path / 'in'}", "--scale", "2"]
    assert main(command) == 0
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == files
    assert "already prepared, 1 tiles; kept" in capsys.readouterr().out


def test_a_full_disk_gives_one_line_and_no_dataset(tmp_path: Path) -> None:
    """A limit on the size of files has the same effect as a full disk."""
    write_image(tmp_path / "in" / "x.png", random_image(400, 400))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written: .*File too large") as raised:
            prepare("image_folder", tmp_path, scales=[2], sources=[tmp_path / "in"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("*.array_record*"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("imagenet", "imagenet: no such dataset; there are div2k, df2k, image_folder"),
        ("image_folder", "name folders or files, --source"),
        ("image_folder --source=missing", "missing: no such folder or image"),
        ("image_folder --source=. --manual_dir=.", "not from --manual_dir"),
        ("div2k --source=.", "--source is for image_folder"),
        ("div2k --scale 8", "the scales must be from"),
        ("df2k", "no folder with Flickr2K"),
        ("df2k --manual_dir=missing", "missing: no such folder"),
        ("df2k --manual_dir=here", "neither Flickr2K/Flickr2K_HR"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: str, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "else").mkdir(parents=True)
    name, *rest = options.split()
    assert main(["prepare", name, "--data_dir=tfds", *rest]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_a_folder_that_is_no_dataset_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "image_folder/x2/1.0.0").mkdir(parents=True)
    with pytest.raises(InputError, match="no complete dataset"):
        prepare("image_folder", tmp_path, scales=[2], sources=[tmp_path])
