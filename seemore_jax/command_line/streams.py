"""Standard input and output as image files: `-` as INPUT, and as OUTPUT."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from seemore_jax.system.errors import InputError

STREAM = "-"
INPUT_NAME, OUTPUT_NAME = "standard input", "standard output"


@contextlib.contextmanager
def stream_folder() -> Iterator[Path]:
    """Yields a temporary folder for the content of streams; errors name the streams in the place of its files."""
    with tempfile.TemporaryDirectory(prefix="seemore-jax-") as name:
        try:
            yield Path(name)
        except InputError as error:
            raise InputError(without_folder(str(error), Path(name))) from error


def without_folder(text: str, folder: Path) -> str:
    """Returns a text in which the streams have their names in the place of the files in the folder.

    Args:
      text: the text.
      folder: the folder from `stream_folder`.
    """
    return text.replace(f"{folder}/", "")


def read_stream(folder: Path) -> Path:
    """Copies standard input into a file, and returns the file.

    Args:
      folder: where to put it.

    Raises:
      InputError: standard input is a terminal.
    """
    if sys.stdin.isatty():
        raise InputError(
            f"{INPUT_NAME} is a terminal, not an image; use it as in: seemore-jax - < photo.jpg > large.png"
        )
    file = folder / INPUT_NAME
    with file.open("wb") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
    return file


def check_stream_target() -> None:
    """Raises InputError if standard output is a terminal, which cannot show an image file."""
    if sys.stdout.isatty():
        raise InputError(f"{OUTPUT_NAME} is a terminal: name a file with -o, or redirect it, as in: > large.png")


def write_stream(file: Path) -> None:
    """Copies a file to standard output.

    Args:
      file: the file.

    Raises:
      InputError: nobody reads standard output any more, or its disk is full.
    """
    try:
        with file.open("rb") as content:
            shutil.copyfileobj(content, sys.stdout.buffer)
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            sys.stdout.close()  # else Python would complain at its end about what could not be written
        raise InputError(f"{OUTPUT_NAME}: cannot be written: {error.strerror}") from error
