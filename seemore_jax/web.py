"""Serves a web page that upscales an image and compares it with bicubic upscaling: the command `web`.

The page upscales an uploaded file with the same functions as the command `upscale`, and offers the PNG file for
download. The page does not need the internet: the scripts are part of Gradio, and the fonts are those of the system.
"""

import contextlib
import dataclasses
import html
import importlib
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt, UInt8
from PIL import Image

from seemore_jax.data.image_writing import write_image
from seemore_jax.data.images import SUFFIXES, has_alpha, read_picture, to_rgb8
from seemore_jax.evaluation.routes import Routes, routes_figure
from seemore_jax.inference.folder import Settings, flatten, upscale_files
from seemore_jax.inference.jobs import Source, name_jobs
from seemore_jax.inference.runner import bucket
from seemore_jax.network import Routing, SeemoRe
from seemore_jax.porting import load
from seemore_jax.porting.weights import BUNDLED
from seemore_jax.system.errors import InputError

# The largest number of pixels of an input, by default: a little more than 1920×1080. Upscaling such an image by 4
# already takes gigabytes.
MAX_PIXELS = 2**21
# The largest number of pixels of each image in the comparison: more than a screen shows, but quickly sent.
_PREVIEW_PIXELS = 2**22
# The largest number of waiting requests; more requests are refused.
_QUEUE = 16
# The largest size of all temporary files in bytes. If it is exceeded, uploads are refused until old files are deleted.
_MAX_STORED = 2**32
# The seconds between deletions of old files, and the age in seconds at which a file is old.
_DELETION = (300, 3600)
# The number of image sizes whose compiled programs are kept; each takes about 40 MB.
_PROGRAMS = 16


@dataclasses.dataclass(frozen=True)
class Result:
    """The result for one image, as files and values that the page shows.

    Attributes:
      target: the file with the upscaled image, NAME_x4.png for a factor of 4.
      before: the file with the bicubically upscaled image, for the comparison: 8-bit RGB, smaller than `target` if that
        is very large.
      after: the file with the upscaled image, for the comparison: as `before`, and of the same size.
      sizes: width and height in pixels of the input, of `target`, and of `before` and `after`.
      seconds: the time for reading, upscaling and writing `target`.
      routing: the choices of the routers, a `Routing` of one image.
      notes: more information for the user, such as a choice of experts that is nearly a tie.
    """

    target: Path
    before: Path
    after: Path
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    seconds: float
    routing: Routing
    notes: tuple[str, ...] = ()


def upscale_upload(model: SeemoRe, path: Path, folder: Path, max_pixels: int) -> Result:
    """Upscales an image file like the command `upscale`, and makes the images for the comparison.

    Args:
      model: the model.
      path: the uploaded file.
      folder: the folder for the results.
      max_pixels: the largest number of pixels. A file that claims more is refused.

    Returns:
      The files and values that the page shows.

    Raises:
      InputError: the file cannot be used. The message has the name of the file without its folder.
    """
    start = time.perf_counter()
    jobs = name_jobs([Source(path)], folder, f"_x{model.config.scale}", ".png")
    (outcome,) = upscale_files(model, jobs, Settings(max_pixels=max_pixels))
    seconds = time.perf_counter() - start
    if outcome.before is None or outcome.after is None or outcome.routing is None:
        raise InputError(str(outcome.error).replace(str(path), path.name))
    width, height = outcome.after
    shrunk = min(1, (_PREVIEW_PIXELS / (width * height)) ** 0.5)
    shown = max(1, int(width * shrunk)), max(1, int(height * shrunk))
    target = outcome.job.target
    names = {source: target.with_name(f"{name}.png") for name, source in (("before", path), ("after", target))}
    for source, preview in names.items():
        picture = read_picture(source)
        write_image(preview, _preview(picture.pixels, shown), picture.metadata)
    sizes = outcome.before, outcome.after, shown
    return Result(target, names[path], names[target], sizes, seconds, outcome.routing, outcome.notes)


def _preview(image: UInt[np.ndarray, "h w *c"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Puts an image on a white background, and resizes it bicubically to (width, height)."""
    opaque = flatten(image) if has_alpha(image) else image
    return np.asarray(Image.fromarray(to_rgb8(opaque)).resize(size, Image.Resampling.BICUBIC))


def plot_experts(model: SeemoRe, result: Result, file: Path) -> None:
    """Plots the experts that the layers chose, and writes the plot as PNG.

    Args:
      model: the model that made the result.
      result: the result for one image.
      file: the PNG file to write.
    """
    image = to_rgb8(read_picture(result.before).pixels)
    routes_figure([Routes.of("", image, result.routing)], model.config.ranks).savefig(file, dpi=200)


def load_models(names: Sequence[str], **overrides: Any) -> dict[str, SeemoRe]:
    """Loads all bundled models, and more models.

    Args:
      names: the sources of the other models, as `load` takes them.
      **overrides: fields of `SeemoReConfig` for the other models; see `load`.

    Returns:
      The models by name.

    Raises:
      WeightsError: a model cannot be loaded.
    """
    bundled = sorted(file.stem for file in BUNDLED.glob("*.safetensors"))
    return {name: load(name) for name in bundled} | {name: load(name, **overrides) for name in names}


def serve(models: Mapping[str, SeemoRe], chosen: str, host: str, port: int, max_pixels: int = MAX_PIXELS) -> None:
    """Serves the page until the process gets Ctrl-C or SIGTERM, and then deletes the temporary files.

    Args:
      models: the models that users choose from, by the name that the page shows.
      chosen: the name of the model that is selected at first.
      host: the address to listen on. With 127.0.0.1, only this machine can open the page.
      port: the port to listen on, from 1 to 65535.
      max_pixels: the largest number of pixels of an input. Larger images are refused.

    Raises:
      InputError: Gradio is not installed, or the address or the port cannot be used.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, when the temporary files are deleted.
    """
    _check_address(host, port)
    with tempfile.TemporaryDirectory(prefix="seemore-jax-", ignore_cleanup_errors=True) as name:
        # Gradio reads these variables when it is imported.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=name)
        gr = _gradio()
        folder = Path(name)
        # The size of the largest image without compression, with 16 bits and alpha, and some bytes for metadata.
        max_bytes = 8 * max_pixels + 2**20
        page = _page(gr, _Upscaler(models, folder, max_pixels), chosen, max_bytes)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            _launch(gr, page, host, port, folder, max_bytes)
            print(f"http://{f'[{host}]' if ':' in host else host}:{port}/  (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def _gradio() -> Any:
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise InputError("the page needs Gradio: pip install 'seemore-jax[web]'") from error


def _check_address(host: str, port: int) -> None:
    if not 0 < port < 2**16:
        raise InputError(f"--port is {port}, not 1 to 65535")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot listen on {host}, port {port}: {reason}; choose with --host and --port") from error


class _Upscaler:
    """The function that the page calls for an uploaded image. It handles one image at a time."""

    def __init__(self, models: Mapping[str, SeemoRe], folder: Path, max_pixels: int):
        self.models = models
        self.folder = folder
        self.max_pixels = max_pixels
        self.compiled: set[Any] = set()

    def __call__(self, path: Path, name: str) -> tuple[Result, str, Path]:
        """Returns the result for an image, a line of text about it, and the file with the plot of the experts.

        Raises:
          InputError: see `upscale_upload`.
        """
        model, folder = self.models[name], Path(tempfile.mkdtemp(dir=self.folder))
        try:
            result = upscale_upload(model, path, folder, self.max_pixels)
            plot_experts(model, result, folder / "experts.png")
        except BaseException:
            shutil.rmtree(folder)
            raise
        return result, self._describe(name, result), folder / "experts.png"

    def _describe(self, name: str, result: Result) -> str:
        before, after, shown = ("{}×{}".format(*size) for size in result.sizes)
        line = f"**{before} → {after}** pixels with {name} in **{result.seconds:.2f} s**"
        if self._is_new((name, *(bucket(side, 1) for side in result.sizes[0]))):
            line += ", the next picture of such a size in less"
        line = ". ".join([line, *result.notes])
        return line if shown == after else f"{line}. The comparison is shrunk to {shown}; the download is not."

    def _is_new(self, program: Any) -> bool:
        """Returns whether a program had to be compiled. All programs are deleted when their number gets too large."""
        if program in self.compiled:
            return False
        if len(self.compiled) < _PROGRAMS:
            self.compiled.add(program)
        else:
            jax.clear_caches()
            self.compiled.clear()
        return True


def _page(gr: Any, upscaler: _Upscaler, chosen: str, max_bytes: int) -> Any:
    limits = f"up to {upscaler.max_pixels / 1e6:.1f} million pixels and {max_bytes / 2**20:.0f} MB"
    with gr.Blocks(title="SeemoRe", analytics_enabled=False, delete_cache=_DELETION) as page:
        gr.Markdown("# SeemoRe image super-resolution")
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                # gr.File, because gr.Image would convert to 8 bits without colour profile and orientation.
                file = gr.File(label="Picture", file_types=list(SUFFIXES), height=140, elem_id="picture")
                gr.Markdown(f"PNG, JPEG, WebP, TIFF or BMP, {limits}.", elem_classes="hint")
                model = gr.Radio(list(upscaler.models), value=chosen, label="Model", elem_id="model")
                download = gr.DownloadButton(
                    "Download", variant="primary", size="md", interactive=False, elem_id="download"
                )
            with gr.Column(scale=8, min_width=480):
                slider = gr.ImageSlider(
                    label="Bicubic (left), SeemoRe (right)", buttons=["fullscreen"], interactive=False,
                    elem_id="comparison", max_height=540,
                )  # fmt: skip
                line = gr.Markdown(elem_id="line")
                experts = gr.Image(
                    label="Experts chosen in each layer", buttons=["fullscreen"], interactive=False, visible=False,
                    elem_id="experts", height=290,
                )  # fmt: skip

        def run(path: str | None, name: str) -> tuple[Any, ...]:
            if path is None:
                return None, "", gr.DownloadButton("Download", value=None, interactive=False), gr.Image(visible=False)
            try:
                result, text, plot = upscaler(Path(path), name)
            except InputError as error:
                raise gr.Error(html.escape(str(error)), print_exception=False) from error
            button = gr.DownloadButton(f"Download {result.target.name}", value=result.target, interactive=True)
            return (result.before, result.after), text, button, gr.Image(plot, visible=True)

        gr.on(
            [file.change, model.input], run, [file, model], [slider, line, download, experts],
            show_progress_on=slider, concurrency_limit=1, trigger_mode="always_last", api_visibility="private",
        )  # fmt: skip
    return page.queue(max_size=_QUEUE, default_concurrency_limit=1)


def _launch(gr: Any, page: Any, host: str, port: int, folder: Path, max_bytes: int) -> None:
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=max_bytes,
        # The form around the file takes some more bytes.
        app_kwargs={"middleware": [(_Limits, (folder, max_bytes + 2**16), {})]},
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        footer_links=[],
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=_STYLE,
    )


_STYLE = """
.gradio-container { width: 100%; max-width: 1200px !important; margin: 0 auto; }
.hint { opacity: 0.7; font-size: 0.85em; }
"""


class _Limits:
    """An ASGI application that refuses uploads that are too large, or that would fill the disk."""

    def __init__(self, app: Any, folder: Path, max_bytes: int):
        self.app = app
        self.folder = folder
        self.max_bytes = max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            length = dict(scope["headers"]).get(b"content-length", b"")
            if not length.isdigit() or int(length) > self.max_bytes:
                return await _refuse(send, 413)
            if _stored(self.folder) > _MAX_STORED:
                return await _refuse(send, 507)
        return await self.app(scope, receive, send)


def _stored(folder: Path) -> int:
    """Returns the size of all files in a folder in bytes. Files may be deleted at the same time."""
    total = 0
    for name, _, files in os.walk(folder):  # ignores folders that are deleted meanwhile
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                total += Path(name, file).stat().st_size
    return total


async def _refuse(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"too large"})
