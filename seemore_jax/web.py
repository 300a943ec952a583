"""The command web: a page in the browser that upscales a picture and compares it with plain enlargement.

Pictures go through the same functions as those of the command `upscale`, from the file as it was uploaded to the PNG
that is offered for download. The page needs no network: its scripts come with Gradio, its fonts with the system.
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

# Of an input, by default: a little more than 1920×1080, whose ×4 takes gigabytes already.
MAX_PIXELS = 2**21
# Of each image behind the slider: more than a screen shows, and quickly sent.
_PREVIEW_PIXELS = 2**22
# Visitors who wait; all others are told to come back.
_QUEUE = 16
# Bytes of all temporary files; beyond it uploads are refused until old files are deleted.
_MAX_STORED = 2**32
# Seconds between deletions, and after which a file is deleted.
_DELETION = (300, 3600)
# Image sizes whose compiled programs are kept: some 40 MB each.
_PROGRAMS = 16


@dataclasses.dataclass(frozen=True)
class Result:
    """What the page shows of one picture, as files.

    Attributes:
      target: the upscaled picture, NAME_x4.png for a factor of 4.
      before: the picture enlarged bicubically, and
      after: the upscaled picture; both 8-bit RGB, alike in size, and smaller than `target` where that is huge.
      sizes: width and height in pixels of the picture, of `target`, and of `before` and `after`.
      seconds: for reading, upscaling and writing `target`.
      routing: what the routers chose (a `Routing` of one image).
      notes: what else there is to know, such as a choice of experts that is nearly a tie.
    """

    target: Path
    before: Path
    after: Path
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    seconds: float
    routing: Routing
    notes: tuple[str, ...] = ()


def upscale_upload(model: SeemoRe, path: Path, folder: Path, max_pixels: int) -> Result:
    """Upscales an image file as the command `upscale` does, and makes the images to compare.

    Args:
      model: any SeemoRe.
      path: the file, as it was uploaded.
      folder: for the results.
      max_pixels: refuse a file that claims more.

    Raises:
      InputError: the file cannot be used; the message gives its name without its folder.
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
    """An image on white, resized bicubically."""
    opaque = flatten(image) if has_alpha(image) else image
    return np.asarray(Image.fromarray(to_rgb8(opaque)).resize(size, Image.Resampling.BICUBIC))


def plot_experts(model: SeemoRe, result: Result, file: Path) -> None:
    """Plots which experts the layers chose, as PNG."""
    image = to_rgb8(read_picture(result.before).pixels)
    routes_figure([Routes.of("", image, result.routing)], model.config.ranks).savefig(file, dpi=200)


def load_models(names: Sequence[str], **overrides: Any) -> dict[str, SeemoRe]:
    """The bundled models and those named, as `load` takes them with `overrides`, by their names."""
    bundled = sorted(file.stem for file in BUNDLED.glob("*.safetensors"))
    return {name: load(name) for name in bundled} | {name: load(name, **overrides) for name in names}


def serve(models: Mapping[str, SeemoRe], chosen: str, host: str, port: int, max_pixels: int = MAX_PIXELS) -> None:
    """Serves the page until it is interrupted (by Ctrl-C, or by SIGTERM).

    Args:
      models: those that visitors choose from, under the names that they see.
      chosen: the name of the one that is chosen at first.
      host: the address to listen on; others than 127.0.0.1 let other machines in.
      port: 1 to 65535.
      max_pixels: refuse larger images.

    Raises:
      InputError: Gradio is missing, or the address cannot be had.
      KeyboardInterrupt: at the end; the temporary files are deleted then.
    """
    _check_address(host, port)
    with tempfile.TemporaryDirectory(prefix="seemore-jax-", ignore_cleanup_errors=True) as name:
        # Gradio reads these when it is imported.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=name)
        gr = _gradio()
        folder = Path(name)
        # Of the picture's bytes: what the largest takes uncompressed, with 16 bits and alpha, and some for metadata.
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
    """Answers the page, one picture at a time."""

    def __init__(self, models: Mapping[str, SeemoRe], folder: Path, max_pixels: int):
        self.models = models
        self.folder = folder
        self.max_pixels = max_pixels
        self.compiled: set[Any] = set()

    def __call__(self, path: Path, name: str) -> tuple[Result, str, Path]:
        """A result, a line about it, and a plot of the experts.

        Raises:
          InputError: as for `upscale_upload`.
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
        """Whether a program was compiled just now. From time to time all are forgotten: visitors bring any sizes."""
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
                # A file rather than gr.Image, which would hand over 8 bits without profile and orientation.
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
        # A form around the file takes some bytes more.
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
    """Refuses uploads that are too large as a whole, or that would fill the disk (an ASGI application)."""

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
    """Bytes of all files in a folder, of which others may be deleted meanwhile."""
    total = 0
    for name, _, files in os.walk(folder):  # goes on where a folder has vanished
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                total += Path(name, file).stat().st_size
    return total


async def _refuse(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"too large"})
