"""The HTML of what visitors read: the card of each picture, and messages without options of the command line."""

import html
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from seemore_jax.web.choices import Chosen
from seemore_jax.web.results import Result
from seemore_jax.web.tiles import TILE

_EXPERTS = """Each layer of SeemoRe has several small networks, called experts. A layer looks at the whole picture and
chooses the expert that suits it. In the table, a column is a layer, and a row is an expert with its rank, the number of
features that it works with. The number in a cell is the probability that the layer gave to the expert; the chosen one
has a frame."""


def for_visitors(message: str, path: Path) -> str:
    """Returns a message of the command line for visitors: without the server's folders and without options.

    Args:
      message: the message of one line.
      path: the uploaded file, of which only the name is left.
    """
    named = message.replace(str(path), path.name).replace(f"{path.parent}/", "")
    # Clauses are separated by semicolons. A clause with an option of the command line does not help visitors.
    clauses = [clause for clause in named.split("; ") if not re.search(r"(^|[\s(])--\w", clause)]
    return "; ".join(clauses) or f"{path.name}: cannot be used"


def too_large(name: str, size: tuple[int, int], limit: int, scale: int) -> str:
    """Returns the message for a picture with too many pixels.

    Args:
      name: the name of the file.
      size: width and height in pixels.
      limit: the largest number of pixels.
      scale: the scale for which the limit is.
    """
    width, height = size
    return (
        f"{name}: {width}×{height} pixels are too many. "
        f"This page takes pictures of up to {megapixels(limit)} at ×{scale}."
    )


def megapixels(pixels: int) -> str:
    """Returns a number of pixels in words, rounded down: "62 megapixels", "1.5 megapixels", "2000 pixels".

    Args:
      pixels: the number.
    """
    if pixels < 10**5:
        return f"{pixels} pixels"
    tenths = math.floor(pixels / 1e5)
    return f"{tenths // 10 if tenths >= 100 else tenths / 10:g} megapixels"


def result_card(name: str, chosen: Chosen, result: Result) -> str:
    """Returns the card of a result: a line about it, the comparison, the download, and the plot of the experts.

    Args:
      name: the name of the uploaded file.
      chosen: the model, and why it was chosen.
      result: the files and values.
    """
    before, after = ("{}×{}".format(*size) for size in (result.before, result.after))
    target, tiles = result.target, result.tiles
    view = {
        "name": name,
        "width": tiles.width,
        "height": tiles.height,
        "tile": TILE,
        "suffix": tiles.suffix,
        "before": _url(tiles.folder / "before"),
        "after": _url(tiles.folder / "after"),
    }
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in result.notes)
    file = html.escape(target.name)
    return _card(
        name,
        "done",
        f"""<p class="facts"><strong>{before} → {after}</strong> pixels in {duration(result.seconds)}.
<span class="model">Model: <strong>{html.escape(chosen.name)}</strong>, {html.escape(chosen.reason)}.</span></p>
<seemore-comparison data-view="{html.escape(json.dumps(view))}"></seemore-comparison>
{notes}
<p><a class="download" href="{_url(target)}" download="{file}">Download {file}</a>
<span class="hint">{file_size(target.stat().st_size)}</span></p>
<details><summary>What the network chose for this picture</summary>
<p>{_EXPERTS}</p>
<img src="{_url(result.experts)}" loading="lazy" alt="Table of the experts that each layer chose"></details>""",
    )


def failure_card(name: str, message: str) -> str:
    """Returns the card of a picture that was not upscaled.

    Args:
      name: the name of the uploaded file.
      message: the reason, for visitors.
    """
    reason = message.removeprefix(f"{name}: ")
    return _card(name, "failed", f"<p>{html.escape(reason[:1].upper() + reason[1:])}</p>")


def _card(name: str, kind: str, content: str) -> str:
    return f'<article class="card {kind}"><h2>{html.escape(name)}</h2>\n{content}</article>'


def empty_card() -> str:
    """Returns the HTML that is shown before there are cards: it says what will appear."""
    return """<div class="empty"><p>Each result appears here, beside ordinary enlargement: drag the line between them to
compare, and download the result as PNG.</p></div>"""


def status_line(text: str) -> str:
    """Returns a line that screen readers read when it changes.

    Args:
      text: the line, as text.
    """
    return f'<p role="status">{html.escape(text)}</p>'


def summary(made: int, failed: int, *, stopped: bool) -> str:
    """Returns the line at the end of all pictures.

    Args:
      made: the number of pictures that were upscaled.
      failed: the number of those that were not.
      stopped: whether the visitor stopped the work.
    """
    line = "Stopped. " if stopped else ""
    line += f"{_pictures(made)} upscaled" + (f", {failed} not" if failed else "")
    return line + ("." if not made else ". Files are deleted from the server after an hour.")


def _pictures(number: int) -> str:
    return "1 picture" if number == 1 else f"{number} pictures"


def waiting(ahead: int) -> str:
    """Returns what visitors read while others compute.

    Args:
      ahead: the number of pictures that come first.
    """
    return f"waiting for {_pictures(ahead)} of other visitors"


def formats(suffixes: Sequence[str]) -> str:
    """Returns the names of image formats: "PNG, JPEG, WebP".

    Args:
      suffixes: the suffixes of files, such as ".png".
    """
    names = [suffix[1:].upper().replace("JPG", "JPEG").replace("WEBP", "WebP") for suffix in suffixes]
    return ", ".join(dict.fromkeys(name for name in names if name != "TIF"))


def duration(seconds: float) -> str:
    """Returns a time in words.

    Args:
      seconds: the time.
    """
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes"


def file_size(size: int) -> str:
    """Returns the size of a file in words.

    Args:
      size: the size in bytes.
    """
    return f"{size / 1e6:.1f} MB" if size >= 10**5 else f"{size / 1e3:.1f} kB"


def _url(path: Path) -> str:
    """Returns the address of a file, relative to the page. Gradio serves the files in its temporary folder."""
    return f"gradio_api/file={quote(str(path))}"
