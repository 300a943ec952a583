"""Starts the page: checks what the operator asked for, and says what visitors may do."""

import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from seemore_jax.data.images import MAX_PIXELS
from seemore_jax.system.errors import InputError, one_line
from seemore_jax.system.memory import free_memory
from seemore_jax.web.address import Address
from seemore_jax.web.cards import megapixels
from seemore_jax.web.choices import Choices
from seemore_jax.web.storage import Storage
from seemore_jax.web.upscaler import Upscaler

# The variable of the environment with the password.
PASSWORD = "SEEMORE_PASSWORD"
# The share of the free memory that a result may take, and the bytes for each of its pixels: 3 or 6 bytes in the result,
# and as many and a quarter more in the encoder.
_SHARE, _RESULT_BYTES = 0.7, 12
# The largest size of a pixel in a file without compression: 16 bits and transparency; and some bytes for metadata.
_FILE_BYTES, _METADATA = 8, 2**20


def read_password(given: str | None) -> str | None:
    """Returns the password of the page.

    Args:
      given: the password, or @FILE for the first line of a file; None for the environment variable `PASSWORD`.

    Returns:
      The password; None if there is none.

    Raises:
      InputError: the file cannot be read, or the password is empty.
    """
    if given is None:
        source, password = f"${PASSWORD}", os.environ.get(PASSWORD)
    elif given.startswith("@"):
        source = given[1:]
        try:
            password = Path(source).read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{source}: the password cannot be read: {one_line(error)}") from error
    else:
        source, password = "--password", given
    if password is not None and not password.strip():
        raise InputError(f"{source}: the password is empty")
    return password and password.strip()


def limits_by_memory(scales: set[int]) -> dict[int, int]:
    """Returns the largest number of pixels of an input for each scale, by the memory that is free now.

    The feature maps do not count, because they go to a file where the memory is too small for them.

    Args:
      scales: the scales of the models.
    """
    pixels = _SHARE * free_memory() / _RESULT_BYTES
    return {scale: min(MAX_PIXELS, max(1, int(pixels / scale**2))) for scale in sorted(scales)}


def describe_limits(limits: dict[int, int]) -> str:
    """Returns the limits in words.

    Args:
      limits: the largest number of pixels for each scale.
    """
    if len(set(limits.values())) == 1:
        return f"up to {megapixels(next(iter(limits.values())))}"
    first, *others = (f"{megapixels(limit)} at ×{scale}" for scale, limit in limits.items())
    return "up to " + ", ".join([first, *(other.replace(" megapixels", "") for other in others)])


def serve(choices: Choices, address: Address, password: str | None = None, max_pixels: int | None = None) -> None:
    """Serves the page until the process gets Ctrl-C or SIGTERM, and then deletes the temporary files.

    Args:
      choices: the models that visitors choose from.
      address: where the page is.
      password: the password that visitors must give, or None.
      max_pixels: the largest number of pixels of an input, by default as many as the memory allows. Larger images are
        refused.

    Raises:
      InputError: Gradio is not installed, or the address or the port cannot be used.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, when the temporary files are deleted.
    """
    address.check()
    if max_pixels is not None and max_pixels < 1:
        raise InputError(f"--max_pixels is {max_pixels}, not 1 or more")
    scales = set(choices.scales().values())
    limits = dict.fromkeys(sorted(scales), max_pixels) if max_pixels else limits_by_memory(scales)
    with tempfile.TemporaryDirectory(prefix="seemore-jax-", ignore_cleanup_errors=True) as name:
        # Gradio reads these variables when it is imported.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=name)
        try:
            from seemore_jax.web.page import Page
            from seemore_jax.web.server import run_server
        except ImportError as error:
            raise InputError(f"the page needs Gradio: {install_command()}") from error

        storage = Storage(Path(name))
        page = Page(Upscaler(choices, storage, limits), describe_limits(limits))
        storage.delete_old_regularly()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        largest = _FILE_BYTES * max(limits.values()) + _METADATA
        run_server(page, address, storage, largest, password, lambda: say_where(address, password))


def say_where(address: Address, password: str | None) -> None:
    """Prints the address of the page, and who can use it if others can reach it.

    Args:
      address: where the page is.
      password: the password that visitors must give, or None.
    """
    if not address.is_local():
        whoever = "anyone who reaches this machine can use the page"
        note = f"{whoever}; --password asks them for one" if password is None else "the connection is not encrypted"
        print(f"note: {note}", flush=True)
    print(f"{address}  (Ctrl-C ends it)", flush=True)


def install_command() -> str:
    """Returns the command that installs Gradio for the Python that runs, from where this package is."""
    root = Path(__file__).parents[2]
    source = f"-e {shlex.quote(f'{root}[web]')}" if (root / "pyproject.toml").is_file() else "'seemore-jax[web]'"
    return f"{shlex.quote(sys.executable)} -m pip install {source}"
