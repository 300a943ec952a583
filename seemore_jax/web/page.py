"""Builds the page, and answers the buttons that visitors press."""

import html
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from seemore_jax.data.images import SUFFIXES
from seemore_jax.system.errors import InputError, one_line
from seemore_jax.web import cards
from seemore_jax.web.upscaler import Upscaler

# The largest number of files that are upscaled at the press of the button; there is a card for each.
FILES = 20
# The numbers of visitors whose files are upscaled in turn, and of those that wait until one of these has finished.
_VISITORS, _QUEUE = 16, 16

_HEADER = """# SeemoRe image super-resolution
Enlarges pictures, and compares the result with ordinary (bicubic) enlargement."""
_FOLDER = Path(__file__).parent
STYLE = (_FOLDER / "style.css").read_text()
# Gradio limits the rules of STYLE to the parts of the page; the space around these needs a rule in the head.
HEAD = f"""<style>@media (max-width: 640px) {{ .gradio-container .main {{ padding: 1rem !important; }} }}</style>
<script type="module">{(_FOLDER / "comparison.js").read_text()}</script>"""


class Stopped(Exception):
    """The visitor stopped the work, or closed the page."""


def theme() -> gr.themes.Base:
    """Returns colours in which all text has a contrast of 4.5:1 or more, and fonts that the system has."""
    return gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        block_label_text_color="*neutral_700",
        block_info_text_color="*neutral_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        link_text_color_dark="*primary_300",
        link_text_color_hover_dark="*primary_200",
        link_text_color_active_dark="*primary_300",
        link_text_color_visited_dark="*primary_300",
    )  # fmt: skip


class _Blocks(gr.Blocks):
    """The parts of a page, which log a request with wrong values in one line, without a traceback."""

    async def process_api(self, *arguments: Any, **named: Any) -> Any:
        """Handles a request."""
        try:
            return await super().process_api(*arguments, **named)
        except Exception as error:
            print(f"refused: {one_line(error)}", file=sys.stderr, flush=True)
            message = error.message if isinstance(error, gr.Error) else "Something went wrong. Please reload the page."
            raise gr.Error(html.escape(str(message)), print_exception=False) from error


class Page:
    """Holds the page and knows the visitors whose files are being upscaled."""

    def __init__(self, upscaler: Upscaler, limits: str) -> None:
        """Builds the page.

        Args:
          upscaler: what upscales the files.
          limits: which files the page takes, in words.
        """
        self._upscaler = upscaler
        self._stops: dict[str | None, threading.Event] = {}  # of the visitors, by the name of their session
        with _Blocks(title="SeemoRe", analytics_enabled=False) as self.blocks:
            gr.Markdown(_HEADER)
            with gr.Row():
                with gr.Column(scale=3, min_width=280):
                    # gr.File, because gr.Image would convert to 8 bits without colour profile and orientation.
                    files = gr.File(
                        label="Pictures", file_count="multiple", file_types=list(SUFFIXES), height=180, elem_id="files"
                    )
                    gr.Markdown(f"{cards.formats(SUFFIXES)}, {limits}.", elem_classes="hint")
                    labels = list(upscaler.choices.scales())
                    scale = gr.Radio(labels, value=upscaler.choices.first, label="Scale", elem_id="scale")
                    self._start = gr.Button("Upscale", variant="primary", elem_id="start")
                    self._stop = gr.Button("Stop", visible=False, elem_id="stop")
                    self._status = gr.HTML(cards.status_line(""), elem_id="status")
                with gr.Column(scale=8, min_width=300):
                    self._empty = gr.HTML(cards.empty_card(), elem_id="empty")
                    self._cards = [gr.HTML(visible=False, elem_id=f"card-{number}") for number in range(FILES)]
            self._start.click(
                self._run, [files, scale], [self._start, self._stop, self._status, self._empty, *self._cards],
                show_progress_on=self._status, concurrency_limit=_VISITORS, trigger_mode="once",
                api_visibility="private",
            )  # fmt: skip
            self._stop.click(self._end, show_progress="hidden", queue=False, api_visibility="private")
            self.blocks.unload(self._end)
        self.blocks.queue(max_size=_QUEUE)

    def stop_all(self) -> None:
        """Stops the work for all visitors."""
        for stop in list(self._stops.values()):
            stop.set()

    def _end(self, request: gr.Request) -> None:
        """Stops the work for a visitor."""
        if stop := self._stops.get(request.session_hash):
            stop.set()

    def _run(
        self,
        paths: list[str] | None,
        label: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (this tells Gradio to pass one)
    ) -> Iterator[dict[Any, Any]]:
        """Upscales the files one after the other, and yields the parts of the page that change."""
        files = [Path(path) for path in paths or []]
        if not files or len(files) > FILES:
            text = f"This page takes up to {FILES} pictures at once." if files else "Choose one or more pictures first."
            yield {self._status: cards.status_line(text)}
            return
        stop = self._stops[request.session_hash] = threading.Event()
        made = failed = 0
        yield self._begun()
        try:
            for number, (file, card) in enumerate(zip(files, self._cards, strict=False)):
                place = f" ({number + 1} of {len(files)})" if len(files) > 1 else ""

                def report(fraction: float, text: str, title: str = file.name + place, first: int = number) -> None:
                    if stop.is_set():
                        raise Stopped
                    self._upscaler.storage.keep(files[first:])
                    progress(fraction, f"{title}: {text}" if text else title)

                content, succeeded = self._card(file, label, report)
                made, failed = made + succeeded, failed + (not succeeded)
                yield {card: gr.HTML(content, visible=True), self._empty: gr.HTML(visible=False)}
        except Stopped:
            pass
        finally:
            self._stops.pop(request.session_hash, None)
        yield self._ended(cards.summary(made, failed, stopped=stop.is_set()))

    def _card(self, file: Path, label: str, report: Any) -> tuple[str, bool]:
        """Returns the card of a file, and whether the file was upscaled."""
        try:
            return cards.result_card(file.name, *self._upscaler.upscale(file, label, report)), True
        except InputError as error:
            return cards.failure_card(file.name, str(error)), False
        except Stopped:
            raise
        except Exception:
            traceback.print_exc()
            return cards.failure_card(file.name, f"{file.name}: an error of the page, which its log describes."), False

    def _begun(self) -> dict[Any, Any]:
        return {
            # It stays where it is, because the keyboard's focus is on it.
            self._start: gr.Button("Upscaling …"),
            self._stop: gr.Button(visible=True),
            self._status: cards.status_line(""),
            self._empty: gr.HTML(visible=True),
            **{card: gr.HTML("", visible=False) for card in self._cards},
        }

    def _ended(self, text: str) -> dict[Any, Any]:
        return {
            self._start: gr.Button("Upscale"),
            self._stop: gr.Button(visible=False),
            self._status: cards.status_line(text),
        }
