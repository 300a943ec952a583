"""If these fail, the page shows or offers other images than `upscale` writes, or one user can stop the page.

The test in a browser needs Debian's chromium and chromium-driver.
"""

import asyncio
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

import seemore_jax as sj
from seemore_jax import web
from seemore_jax.command_line import main
from seemore_jax.data.image_writing import write_image
from seemore_jax.data.images import read_image, read_picture
from seemore_jax.network import SeemoRe
from tests.support.release import ported, release_model

ROOT = Path(__file__).parents[1]
SMALL = sj.SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1)
RANDOM = np.random.default_rng(0)
_SECONDS = 120  # the longest time to wait for something; much more than it takes


@pytest.fixture(scope="module")
def model() -> SeemoRe:
    return ported(release_model(SMALL), SMALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def test_the_download_keeps_orientation_profile_and_name(model: SeemoRe, folder: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(RANDOM.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(
        tmp_path / "a photo.jpg", exif=exif, icc_profile=profile
    )
    result = web.upscale_upload(model, tmp_path / "a photo.jpg", folder, 320)
    assert result.target.name == "a photo_x2.png"
    assert result.sizes == ((16, 20), (32, 40), (32, 40))
    written = read_picture(result.target)
    assert written.metadata.icc_profile == profile
    np.testing.assert_array_equal(written.pixels, sj.upscale(model, read_image(tmp_path / "a photo.jpg")))
    np.testing.assert_array_equal(read_image(result.after), written.pixels)


def test_the_download_keeps_16_bits_and_alpha_and_the_comparison_is_on_white(
    model: SeemoRe, folder: Path, tmp_path: Path
) -> None:
    image = RANDOM.integers(0, 2**16, (16, 18, 4), dtype=np.uint16)
    image[:, :9, 3] = 0
    write_image(tmp_path / "a.tiff", image)
    result = web.upscale_upload(model, tmp_path / "a.tiff", folder, web.MAX_PIXELS)
    np.testing.assert_array_equal(read_image(result.target), sj.upscale(model, image))
    for shown in (read_image(result.before), read_image(result.after)):
        assert (shown.dtype, shown.shape) == (np.uint8, (32, 36, 3))
        assert (shown[:, :10] == 255).all()
        assert (shown[:, 24:] < 255).any()


def test_the_comparison_of_a_huge_result_is_shrunk(
    model: SeemoRe, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_PREVIEW_PIXELS", 32 * 36 // 4)
    write_image(tmp_path / "a.png", np.full((16, 18), 99, np.uint8))
    result = web.upscale_upload(model, tmp_path / "a.png", folder, web.MAX_PIXELS)
    assert result.sizes[1:] == ((36, 32), (18, 16))
    assert read_image(result.target).shape == (32, 36)
    np.testing.assert_array_equal(read_image(result.before), np.full((16, 18, 3), 99, np.uint8))
    assert read_image(result.after).shape == (16, 18, 3)


def test_a_wrong_file_is_named_without_the_server_s_folder_and_leaves_nothing(
    model: SeemoRe, folder: Path, tmp_path: Path
) -> None:
    write_image(tmp_path / "large.png", np.zeros((20, 20), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"broken")
    upscaler = web._Upscaler({"tiny": model}, folder, max_pixels=399)
    for name, reason in [("large.png", "more than 399"), ("broken.png", "not a readable image")]:
        with pytest.raises(sj.InputError, match=f"^{name}: .*{reason}"):
            upscaler(tmp_path / name, "tiny")
    assert list(folder.iterdir()) == []


def test_a_result_comes_with_its_experts_and_a_line(model: SeemoRe, folder: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", RANDOM.integers(0, 256, (16, 18, 3), dtype=np.uint8))
    upscaler = web._Upscaler({"tiny": model}, folder, web.MAX_PIXELS)
    result, line, experts = upscaler(tmp_path / "a.png", "tiny")
    assert read_image(result.target).shape == (32, 36, 3)
    assert min(read_image(experts).shape[:2]) > 100
    assert line.startswith("**18×16 → 36×32** pixels with tiny in ")
    assert line.endswith("of such a size in less")
    _, again, _ = upscaler(tmp_path / "a.png", "tiny")
    assert again.endswith(" s**")


def test_programs_are_forgotten_after_some_sizes(model: SeemoRe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cleared = []
    monkeypatch.setattr("jax.clear_caches", lambda: cleared.append(True))
    upscaler = web._Upscaler({"tiny": model}, folder, web.MAX_PIXELS)
    for size in range(web._PROGRAMS):
        assert upscaler._is_new(size)
        assert not upscaler._is_new(size)
    assert not cleared
    assert upscaler._is_new(-1)
    assert cleared == [True]
    assert upscaler._is_new(0)


@pytest.mark.parametrize(
    ("method", "headers", "stored", "status"),
    [
        ("POST", [(b"content-length", b"100")], 10, 200),
        ("POST", [(b"content-length", b"101")], 10, 413),
        ("POST", [], 10, 413),
        ("POST", [(b"content-length", b"100")], 11, 507),
        ("GET", [], 11, 200),
    ],
)
def test_uploads_end_where_the_limits_are(
    method: str, headers: list[Any], stored: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_MAX_STORED", 10)
    (tmp_path / "file").write_bytes(b"x" * stored)
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    asyncio.run(web._Limits(page, tmp_path, 100)({"type": "http", "method": method, "headers": headers}, None, send))
    assert sent[0]["status"] == status


def test_files_that_are_deleted_meanwhile_refuse_no_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio deletes old files in a thread of its own."""
    (tmp_path / "gone").mkdir()
    for name in ("a", "b", "gone/c"):
        (tmp_path / name).write_bytes(b"x" * 5)
    stat, scandir = Path.stat, os.scandir

    def deleting_stat(path: Path, **options: Any) -> os.stat_result:
        if path.name == "a":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    def deleting_scandir(path: Any) -> Any:
        if not isinstance(path, int) and Path(path).name == "gone":
            shutil.rmtree(path, ignore_errors=True)
        return scandir(path)

    monkeypatch.setattr(Path, "stat", deleting_stat)
    monkeypatch.setattr(os, "scandir", deleting_scandir)
    assert web._stored(tmp_path) == 5


def test_what_keeps_the_page_from_starting_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    for variable in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(variable, "")  # the command sets it; the test restores it
    monkeypatch.setattr(web, "load_models", lambda names: {})
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        for arguments, reason in [
            (["--port", port], "Address already in use"),
            (["--port", "70000"], "not 1 to 65535"),
            (["--port", "0"], "not 1 to 65535"),
            (["--host", "192.0.2.1"], "192.0.2.1"),
            (["--port", str(_free_port())], "pip install 'seemore-jax[web]'"),
        ]:
            assert main(["web", *arguments]) == 2
            complaint = capsys.readouterr().err
            assert complaint.startswith("error: ")
            assert complaint.count("\n") == 1
            assert reason in complaint


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Serves the page by the command and yields its URL. The command is then interrupted and must delete its files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    port = _free_port()
    command = [sys.executable, "-m", "seemore_jax", "web", "-m", "T-x2", "--port", str(port), "--max_pixels", "2000"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    line = f"http://127.0.0.1:{port}/  (Ctrl-C ends it)\n"
    log = tmp_path / "log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, env=environment)
    try:
        # The server listens before it prints its URL. Users interrupt it only after that.
        _wait_for(lambda: server.poll() is not None or line in log.read_text())
        assert server.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/"
        server.send_signal(signal.SIGINT)
        status = server.wait(_SECONDS)
    finally:
        server.kill()
        server.wait()
    assert log.read_text() == f"{line}interrupted\n"
    assert status == 130
    assert not list(temporary.glob("seemore-jax-*"))


def _wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + _SECONDS
    while not (result := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)
    return result


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Starts Chromium without a window. Downloads are saved in the folder `downloads`."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={tmp_path / 'profile'}"),
        "window-size=1280,1000",
    ):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    started = webdriver.Chrome(options=options, service=service)
    try:
        yield started
    finally:
        started.quit()


def test_the_page_ends_with_ctrl_c_and_leaves_nothing(address: str) -> None:
    with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
        assert answer.status == 200
        assert b"gradio" in answer.read()


@pytest.mark.needs("chromium")
def test_the_page_in_a_browser(address: str, browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    image = RANDOM.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    files = {"noise.png": _png(image), "broken.png": b"broken", "large.png": _png(np.zeros((50, 50), np.uint8))}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "heavy.png").write_bytes(bytes(8 * 2000 + 2**20 + 1))

    def found(selector: str) -> list[Any]:
        return list(browser.find_elements("css selector", selector))

    def upload(name: str) -> None:
        _wait_for(lambda: found("#picture input[type=file]"))[0].send_keys(str(tmp_path / name))

    def clear() -> None:
        found("#picture button[aria-label=Clear]")[0].click()
        _wait_for(lambda: not found("#comparison img"))

    def message() -> str:
        return " ".join(toast.text for toast in found("[data-testid=toast-body]"))

    browser.get(address)
    # The page must still work after each of these uploads.
    upload("broken.png")
    _wait_for(lambda: "broken.png: not a readable image" in message())
    clear()
    upload("large.png")
    _wait_for(lambda: "large.png: claims 50×50 pixels, more than 2,000" in message())
    clear()
    upload("heavy.png")
    _wait_for(lambda: '"heavy.png"' in message())
    assert str(tmp_path) not in message()

    upload("noise.png")
    _wait_for(lambda: found("#experts img"))
    assert "48×32 → 96×64 pixels with T-x2 in " in found("#line")[0].text
    assert all(size == [96, 64] for size in _natural_sizes(browser))
    _wait_for(lambda: "noise_x2.png" in found("#download")[0].text)
    found("#download")[0].click()
    _wait_for((tmp_path / "downloads" / "noise_x2.png").exists)
    np.testing.assert_array_equal(
        read_image(tmp_path / "downloads" / "noise_x2.png"), sj.upscale(sj.load("T-x2"), image)
    )

    def clip() -> float:
        return float(found("#comparison img")[1].value_of_css_property("clip-path").split()[-1].rstrip("%)"))

    assert clip() == pytest.approx(50, abs=1)
    ActionChains(browser).drag_and_drop_by_offset(found("#comparison [data-testid=slider]")[0], -100, 0).perform()
    _wait_for(lambda: clip() < 45)

    requested = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert requested
    assert all(name.startswith((address, "blob:", "data:")) for name in requested)


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def _natural_sizes(browser: Any) -> list[list[int]]:
    """Waits until both images of the comparison are loaded, and returns their sizes."""
    images = "[...document.querySelectorAll('#comparison img')]"
    script = f"return {images}.map(image => [image.naturalWidth, image.naturalHeight])"
    return list(_wait_for(lambda: (sizes := browser.execute_script(script)) and all(map(all, sizes)) and sizes))
