"""If these fail, a visitor cannot use the page: with a mouse, a keyboard or a phone, alone or beside others.

The tests need Debian's chromium and chromium-driver.
"""

import importlib.util
import io
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import seemore_jax as sj
from seemore_jax.data.images import read_image
from seemore_jax.network import SeemoRe
from tests.web.support import SECONDS, Keys, Served, Visitor, browser, served, wait_for

RANDOM = np.random.default_rng(0)
MINE = "×2 with mine.safetensors"


@pytest.fixture(scope="module")
def page(model: SeemoRe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page with a small model beside the bundled ones, for all tests of this module."""
    folder = tmp_path_factory.mktemp("page")
    sj.save(model, folder / "mine.safetensors")
    with served(folder, "-m", str(folder / "mine.safetensors"), "--max_pixels", "12500000") as started:
        yield started


@pytest.fixture
def visitor(page: Served, tmp_path: Path) -> Iterator[Visitor]:
    with browser(tmp_path) as driver:
        visitor = Visitor(driver)
        visitor.open(page.url)
        yield visitor


def save(path: Path, *shape: int, **options: Any) -> Path:
    """Writes a picture of noise."""
    Image.fromarray(RANDOM.integers(0, 256, shape, dtype=np.uint8)).save(path, **options)
    return path


def camera_picture(path: Path) -> Path:
    """Writes a JPEG of 12 megapixels."""
    small = Image.fromarray(RANDOM.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    small.resize((4000, 3000), Image.Resampling.BILINEAR).save(path, quality=92)
    return path


def test_the_page_ends_with_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as page, urllib.request.urlopen(page.url, timeout=SECONDS) as answer:
        assert answer.status == 200
        assert b"gradio" in answer.read()
    assert page.log.read_text() == f"{page.url}  (Ctrl-C ends it)\ninterrupted\n"


@pytest.mark.needs("chromium")
def test_wrong_files_are_explained_and_the_page_goes_on(visitor: Visitor, page: Served, tmp_path: Path) -> None:
    visitor.found("#start")[0].click()
    wait_for(lambda: "Choose one or more pictures first" in visitor.status())

    (tmp_path / "broken.png").write_bytes(b"broken")
    Image.new("1", (5000, 4000)).save(tmp_path / "large.png")
    noise = save(tmp_path / "noise & more.png", 32, 48, 3)
    visitor.choose(tmp_path / "broken.png", tmp_path / "large.png", noise)
    visitor.start()
    assert "1 picture upscaled, 2 not" in visitor.wait_until_done()
    cards = [visitor.text(f"#card-{number}") for number in range(4)]
    assert cards[0].startswith("broken.png Not a readable image")
    assert "5000×4000 pixels are too many. This page takes pictures of up to 12 megapixels" in cards[1]
    assert cards[2].startswith("noise & more.png 48×32 → 96×64 pixels in ")
    assert "Model: mine.safetensors, you chose it." in cards[2]
    assert cards[3] == ""
    assert "--" not in "".join(cards)
    assert str(page.folder) not in "".join(cards)

    # A file that is larger than any picture may be is refused before it is sent.
    with (tmp_path / "heavy.png").open("wb") as file:
        file.truncate(8 * 12_500_000 + 2**20 + 1)
    visitor.found("#files button[aria-label=Clear]")[0].click()
    wait_for(lambda: visitor.found("#files input[type=file]"))[0].send_keys(str(tmp_path / "heavy.png"))
    wait_for(lambda: '"heavy.png"' in visitor.messages())
    assert str(tmp_path) not in visitor.messages()


@pytest.mark.needs("chromium")
def test_the_download_is_what_upscale_writes_and_the_comparison_shows_its_pixels(
    visitor: Visitor, page: Served, model: SeemoRe, tmp_path: Path
) -> None:
    noise = save(tmp_path / "noise.png", 700, 900, 3)
    visitor.choose(noise)
    visitor.start()
    visitor.wait_until_done()
    visitor.found("a.download")[0].click()
    wait_for((tmp_path / "downloads" / "noise_x2.png").exists)
    result = sj.upscale(model, read_image(noise))
    np.testing.assert_array_equal(read_image(tmp_path / "downloads" / "noise_x2.png"), result)

    # At 1:1 around the centre: bicubic on the left of the line in the middle, and the result on its right.
    assert visitor.zoom() == "100 %"
    bicubic = np.asarray(Image.open(noise).resize((1800, 1400), Image.Resampling.BICUBIC))
    shown = visitor.shown()[..., :3]
    height, width = shown.shape[:2]
    top, left, middle = 700 - int(height / 2 + 0.5), 900 - int(width / 2 + 0.5), int(width / 2 + 0.5)
    np.testing.assert_array_equal(shown[:, :middle], bicubic[top : top + height, left : left + middle])
    np.testing.assert_array_equal(shown[:, middle:], result[top : top + height, left + middle : left + width])

    # The mouse moves the line, and the picture; the buttons zoom.
    visitor.drag("seemore-comparison input", (0, 0), (-200, 0))
    wait_for(lambda: visitor.line() < 40)
    visitor.drag("seemore-comparison .stage", (200, 100), (-60, 40))
    wait_for(lambda: visitor.center() == pytest.approx((960, 660), abs=1))
    visitor.found("button[data-zoom=in]")[0].click()
    wait_for(lambda: visitor.zoom() == "200 %")
    visitor.found("button[data-zoom=whole]")[0].click()
    wait_for(lambda: visitor.center() == (900, 700))
    shown = visitor.shown()
    beside = (shown[..., 3] == 0).all(axis=0).sum()  # columns beside the picture
    assert beside == pytest.approx(width - 1800 * height / 1400, abs=2)

    requested = visitor.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert any("before/0-0-0.png" in name for name in requested)
    assert all(name.startswith((page.url, "blob:", "data:")) for name in requested)


@pytest.mark.needs("chromium")
def test_the_keyboard_is_enough(visitor: Visitor, tmp_path: Path) -> None:
    assert visitor.tab_to("start") == ["Click to upload or drop files", "×2", "×3", "×4", MINE, "start"]
    visitor.choose(save(tmp_path / "noise.png", 450, 500, 3))  # the dialog for files is the browser's own
    visitor.driver.execute_script("document.activeElement.blur()")
    visitor.tab_to("×2")
    visitor.press(Keys.SPACE)
    visitor.tab_to("start")
    visitor.press(Keys.ENTER)
    visitor.wait_until_done()
    assert "Model: T-x2" in visitor.text("#card-0")

    # From the button on, without a mouse.
    assert visitor.focused() == "start"
    visitor.tab_to("noise.png: arrow keys move the picture, + and − zoom")
    x, y = visitor.center()
    visitor.press(Keys.RIGHT, Keys.RIGHT, Keys.DOWN)
    wait_for(lambda: visitor.center()[0] > x and visitor.center()[1] > y)
    visitor.press("+")
    wait_for(lambda: visitor.zoom() == "200 %")
    visitor.press("1")
    wait_for(lambda: visitor.zoom() == "100 %")
    assert visitor.tab_to("50") == ["50"]  # the line
    center = visitor.center()
    visitor.press(*[Keys.LEFT] * 10)
    wait_for(lambda: visitor.line() == 40)
    visitor.press(Keys.RIGHT)
    wait_for(lambda: visitor.line() == 41)
    assert visitor.center() == center
    assert visitor.tab_to("What the network chose for this picture") == [
        "Zoom out", "Zoom in", "1:1", "Whole picture", "Full screen", "Download noise_x2.png",
        "What the network chose for this picture",
    ]  # fmt: skip
    assert not visitor.found(".card details[open]")
    visitor.press(Keys.ENTER)
    wait_for(lambda: visitor.found(".card details[open] img"))


@pytest.mark.needs("chromium")
@pytest.mark.needs("axe")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [0, 390])
def test_nothing_on_the_page_violates_wcag(
    width: int, dark: bool, visitor: Visitor, page: Served, tmp_path: Path
) -> None:
    visitor.emulate(width=width, dark=dark)
    visitor.open(page.url)
    assert visitor.run("return document.body.classList.contains('dark')") == dark
    assert visitor.violations() == []
    (tmp_path / "broken.png").write_bytes(b"broken")
    name = "a long name of a picture, as cameras and people give them to pictures.png"
    visitor.choose(save(tmp_path / name, 300, 400, 3), tmp_path / "broken.png")
    assert visitor.violations() == []
    visitor.start()
    visitor.wait_until_done()
    visitor.shown()
    visitor.found(".card summary")[0].click()
    assert visitor.violations() == []
    if width:
        assert visitor.run("return document.documentElement.scrollWidth") == width
        stage = visitor.run("return view.stage.getBoundingClientRect().toJSON()")
        assert stage["width"] > 0.85 * width
        assert stage["height"] < 0.7 * 844  # a finger can scroll the page beside it


@pytest.mark.thorough
@pytest.mark.needs("chromium")
def test_a_camera_s_picture_shows_its_progress_and_lets_another_visitor_in_between(
    visitor: Visitor, page: Served, tmp_path: Path
) -> None:
    with browser(tmp_path / "other") as driver:
        other = Visitor(driver)
        other.open(page.url)
        other.choose(save(tmp_path / "small.png", 32, 48, 3))
        visitor.choose(camera_picture(tmp_path / "camera.jpg"))
        visitor.start()
        wait_for(lambda: visitor.percent() > 2)
        other.start()
        assert "1 picture upscaled" in other.wait_until_done()
        seen = [wait_for(visitor.percent)]
        assert seen[0] < 90, "the small picture waited for the large one"

    def done() -> bool:
        seen.append(visitor.percent() or seen[-1])
        return "upscaled" in visitor.status()

    wait_for(done)
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert seen[-1] <= 100
    assert "4000×3000 → 8000×6000 pixels" in visitor.text("#card-0")
    assert visitor.zoom() == "100 %"
    assert visitor.shown()[..., 3].all()
    visitor.found("button[data-zoom=whole]")[0].click()
    visitor.shown()
    with urllib.request.urlopen(visitor.found("a.download")[0].get_attribute("href"), timeout=SECONDS) as answer:
        image = Image.open(io.BytesIO(answer.read()))
    assert (image.format, image.size) == ("PNG", (8000, 6000))


@pytest.mark.thorough
@pytest.mark.needs("chromium")
@pytest.mark.parametrize("how", ["button", "closed page"])
def test_work_that_nobody_waits_for_is_stopped(how: str, visitor: Visitor, page: Served, tmp_path: Path) -> None:
    before = set(page.results())
    visitor.choose(camera_picture(tmp_path / "camera.jpg"))
    visitor.start()
    wait_for(lambda: visitor.percent() > 1)
    if how == "button":
        visitor.found("#stop")[0].click()
        assert visitor.wait_until_done() == "Stopped. 0 pictures upscaled."
    else:
        visitor.driver.get("about:blank")
    # The next visitor's large picture begins, which it would not if the first one went on.
    visitor.open(page.url)
    visitor.choose(camera_picture(tmp_path / "next.jpg"))
    visitor.start()
    wait_for(lambda: visitor.percent() > 0)
    visitor.found("#stop")[0].click()
    visitor.wait_until_done()
    assert set(page.results()) == before


@pytest.mark.needs("chromium")
def test_only_the_password_opens_the_page(tmp_path: Path) -> None:
    # The server ends while its page is open.
    with browser(tmp_path) as driver, served(tmp_path / "server", SEEMORE_PASSWORD="sesame") as page:
        visitor = Visitor(driver)
        for path in ("config", "gradio_api/info", "theme.css"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(page.url + path, timeout=SECONDS)
        driver.get(page.url)
        visitor.press("wrong", Keys.ENTER)  # the field has the focus
        wait_for(lambda: "This is not the password" in visitor.text("main"))
        if not importlib.util.find_spec("axe_playwright_python"):
            pytest.skip("no axe-core")
        assert visitor.violations() == []
        visitor.emulate(dark=True)
        assert visitor.violations() == []
        visitor.press("sesame", Keys.ENTER)
        wait_for(lambda: visitor.found("#start"))
        visitor.choose(save(tmp_path / "noise.png", 16, 16, 3))
        visitor.start()
        assert "1 picture upscaled" in visitor.wait_until_done()
        visitor.shown()
    log = page.log.read_text().splitlines()
    assert "refused: 127.0.0.1 POST '/password': 401" in log
    assert all(line.startswith(("refused: ", "http://", "interrupted")) for line in log)


def test_bad_requests_leave_one_line_each(page: Served) -> None:
    before = page.log.read_text()
    json = {"Content-Type": "application/json"}
    nothing = {"Content-Length": "99999999999"}
    requests: list[tuple[str, bytes | None, dict[str, str], int]] = [
        ("nothing/here", None, {}, 404),
        ("gradio_api/file=/etc/passwd", None, {}, 403),
        ("gradio_api/upload", b"", nothing, 413),
        ("gradio_api/upload", b"no form", {}, 400),
        ("gradio_api/upload", b"no form", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        ("gradio_api/queue/join", b"no json", json, 422),
        ("gradio_api/queue/join", b'{"fn_index": 99, "data": [], "session_hash": "x"}', json, 500),
    ]
    for path, data, headers, status in requests:
        request = urllib.request.Request(page.url + path, data, headers)
        with pytest.raises(urllib.error.HTTPError, match=str(status)):
            urllib.request.urlopen(request, timeout=SECONDS)
    wrong = b'{"fn_index": 0, "data": [null, "no choice"], "session_hash": "x"}'
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(
            urllib.request.Request(page.url + "gradio_api/run/predict", wrong, json), timeout=SECONDS
        )
    lines: list[str] = []

    def all_there() -> bool:
        lines[:] = page.log.read_text()[len(before) :].splitlines()
        return len(lines) >= 9

    wait_for(all_there)
    assert len(lines) == 9  # two for the last request: what was wrong, and its status
    assert all(line.startswith("refused: ") for line in lines)
