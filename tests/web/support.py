"""The page served by the command, and a browser that visits it."""

import base64
import contextlib
import importlib.util
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
SECONDS = 600  # the longest time to wait for something; much more than it takes

T = TypeVar("T")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def wait_for(condition: Callable[[], T]) -> T:
    """Waits until a condition is true, and returns its value."""
    end = time.monotonic() + SECONDS
    while not (result := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)
    return result


class Served:
    """The page of a process of its own.

    Attributes:
      url: the address of the page.
      log: the file with all that the process prints.
      folder: the folder for temporary files.
    """

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        port = free_port()
        self.url, self.log, self.folder = f"http://127.0.0.1:{port}/", folder / "log", folder / "temporary"
        self.folder.mkdir(parents=True)
        command = [sys.executable, "-m", "seemore_jax", "web", "--port", str(port), *arguments]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=file, env=os.environ | {"TMPDIR": str(self.folder)} | environment
            )

    def wait_until_open(self) -> None:
        # The server listens before it prints its URL. Users interrupt it only after that.
        wait_for(lambda: self.process.poll() is not None or "(Ctrl-C ends it)\n" in self.log.read_text())
        assert self.process.poll() is None, self.log.read_text()

    def results(self) -> list[Path]:
        """The folders of results, finished or not."""
        return [path.parent for path in self.folder.glob("seemore-jax-*/*/before")]


@contextlib.contextmanager
def served(folder: Path, *arguments: str, **environment: str) -> Iterator[Served]:
    """Serves the page. It is then interrupted, and must end as users expect and delete its files."""
    page = Served(folder, *arguments, **environment)
    try:
        page.wait_until_open()
        yield page
        page.process.send_signal(signal.SIGINT)
        status = page.process.wait(SECONDS)
    finally:
        page.process.kill()
        page.process.wait()
    text = page.log.read_text()
    assert text.endswith("\ninterrupted\n")
    assert "Traceback" not in text, text
    assert status == 130
    assert not list(page.folder.glob("seemore-jax-*"))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Any]:
    """Starts Chromium without a window. Downloads are saved in the folder `downloads`."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={folder / 'profile'}"),
        *("window-size=1280,1000", "force-color-profile=srgb"),
    ):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    started = webdriver.Chrome(options=options, service=service)
    started.set_script_timeout(SECONDS)
    try:
        yield started
    finally:
        started.quit()


class Visitor:
    """What a visitor sees and does in a browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def found(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def text(self, selector: str) -> str:
        """The text of all elements that match, in one line; empty if there are none."""
        script = "return [...document.querySelectorAll(arguments[0])].map(found => found.innerText).join(' ')"
        return " ".join(self.driver.execute_script(script, selector).split())

    def open(self, url: str) -> None:
        self.driver.get(url)
        wait_for(lambda: self.found("#files input[type=file]") and self.found("#start"))

    def choose(self, *files: Path) -> None:
        """Chooses files, which replace those that were chosen before, and waits until they are uploaded."""
        if clear := self.found("#files button[aria-label=Clear]"):
            clear[0].click()
        wait_for(lambda: "Drop File Here" in self.text("#files"))
        self.found("#files input[type=file]")[0].send_keys("\n".join(map(str, files)))
        wait_for(lambda: len(self.found("#files tr.file")) == len(files))

    def start(self) -> None:
        self.found("#start")[0].click()
        wait_for(lambda: self.text("#start") != "Upscale")

    def status(self) -> str:
        return self.text("#status")

    def wait_until_done(self) -> str:
        """Waits for the last picture, and returns the line at the end."""
        wait_for(lambda: self.text("#start") == "Upscale" and "upscaled" in self.status())
        return self.status()

    def messages(self) -> str:
        """What the page says in a corner."""
        return self.text("[data-testid=toast-body]")

    def percent(self) -> float:
        """The progress that is shown; 0 if there is none."""
        found = re.search(r"(\d+\.\d)%", self.status())
        return float(found[1]) if found else 0.0

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs JavaScript, with the first comparison as `view`."""
        return self.driver.execute_script(
            f"const view = document.querySelector('seemore-comparison'); {script}", *arguments
        )

    def shown(self) -> np.ndarray:
        """The pixels of the first comparison, when all its tiles are there."""
        loaded = "[...view.tiles.values()].every(tile => tile.complete && tile.naturalWidth)"
        wait_for(lambda: self.run(f"return view?.tiles?.size > 0 && {loaded}"))
        address = self.run("view.draw(); return view.canvas.toDataURL('image/png')")
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
            return np.asarray(image.convert("RGBA"))

    def line(self) -> float:
        """Where the line of the first comparison is, in percent."""
        return float(self.run("return view.line.value"))

    def center(self) -> tuple[float, float]:
        """The pixel of the picture in the centre of the first comparison."""
        x, y = self.run("return [view.center.x, view.center.y]")
        return x, y

    def zoom(self) -> str:
        """The zoom of the first comparison, as the page says it."""
        return self.text("seemore-comparison output")

    def drag(self, selector: str, start: tuple[int, int], by: tuple[int, int]) -> None:
        """Drags with the mouse, from a place relative to the middle of an element."""
        from selenium.webdriver import ActionChains

        element = self.found(selector)[0]
        actions = ActionChains(self.driver).move_to_element_with_offset(element, *start).click_and_hold()
        actions.move_by_offset(*by).release().perform()

    def press(self, *keys: str) -> None:
        """Presses keys."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """What has the focus of the keyboard: its identifier, name or text."""
        return str(
            self.driver.execute_script(
                "const it = document.activeElement;"
                "if (it === document.body) return 'BODY';"
                "return it.id || it.value || it.getAttribute('aria-label') || it.innerText"
            )
        )

    def has_visible_focus(self) -> bool:
        """Returns whether the focus has a line of 3 pixels, in the colour for it, around it."""
        outline = self.driver.execute_script(
            "const style = getComputedStyle(document.activeElement);"
            "return [style.outlineStyle, style.outlineWidth, style.outlineColor]"
        )
        return bool(outline == ["solid", "3px", "rgb(29, 78, 216)"])

    def tab_to(self, name: str) -> list[str]:
        """Presses Tab until something has the focus, and returns all that had it on the way."""
        reached: list[str] = []
        while not reached or reached[-1] != name:
            assert len(reached) < 30, f"{name} is not among {reached}"
            self.press(Keys.TAB)
            if self.focused() != "BODY":  # between the end of the page and its beginning
                reached.append(self.focused())
                wait_for(self.has_visible_focus)
        return reached

    def violations(self) -> list[str]:
        """What violates WCAG up to level AA, as axe finds it."""
        place = importlib.util.find_spec("axe_playwright_python")
        assert place is not None
        assert place.origin is not None
        self.driver.execute_script(Path(place.origin).with_name("axe.min.js").read_text())
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
        found = self.driver.execute_async_script(
            "const done = arguments[1]; axe.run(document, {runOnly: arguments[0]}).then(done)", tags
        )
        assert len(found["passes"]) > 10
        return [f"{each['id']}: {[node['html'][:200] for node in each['nodes']]}" for each in found["violations"]]

    def emulate(self, *, width: int = 0, dark: bool = False) -> None:
        """Emulates a phone of a width, and the dark mode."""
        if width:
            metrics = {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


class Keys:
    """The keys' names in the protocol of browsers' drivers."""

    TAB, ENTER, SPACE, LEFT, RIGHT, DOWN = "\ue004", "\ue007", "\ue00d", "\ue012", "\ue014", "\ue015"
