"""How every command of this project ends: what went wrong in one line, and an exit status.

Launchers go by the status: what would go wrong again must not be tried again, what a lost host causes must.

| status | meaning | launcher |
|---|---|---|
| 0 | done | ends |
| 1 | a process, a host or a connection was lost, or a device failed | starts all again, from the last checkpoint |
| 2 | what would repeat itself: an input that cannot be used, memory or disk that does not suffice, a loss that is not finite, an error in this program | ends |
| 128 + signal | stopped by SIGTERM (143) or Ctrl-C (130), saved | starts all again, unless it was itself told to stop |
| others | killed, or aborted by JAX | starts all again, from the last checkpoint |

Single processes and several together end with the same status. An error that only its traceback explains is shown with
it: it is status 1 if it is a `RuntimeError`, which is all that JAX makes of a lost host, and 2 otherwise.
`python -m seemore_jax upscale` ends with 1 if some images could not be upscaled.
"""  # noqa: E501 (a line of a table cannot be broken)

import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from seemore_jax.errors import InputError

LOST = 1
REPEATS = 2
INTERRUPTED = 130  # by Ctrl-C, as shells have it


def exit_status(command: Callable[[], int | None]) -> int:
    """Runs a command, prints what went wrong, and returns the exit status, which the table above explains."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without × and → must not stop a command
    try:
        return command() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        status, line = explain(error)
        if line:
            _complain(line)
        else:
            traceback.print_exc()
        return status


def explain(error: BaseException) -> tuple[int, str]:
    """The exit status for an error, and the line that says what is wrong; empty where its traceback is needed."""
    text = " ".join(str(error).split()) or type(error).__name__
    match error:
        case KeyboardInterrupt():
            return INTERRUPTED, "interrupted"
        case InputError():
            return REPEATS, text
        case ConnectionError() | TimeoutError():
            return LOST, text
        case OSError():
            return REPEATS, text
        case MemoryError():
            return REPEATS, "out of memory"
        case jax.errors.JaxRuntimeError() if "RESOURCE_EXHAUSTED" in str(error):
            return REPEATS, f"out of memory on the device ({str(error).splitlines()[0]})"
        case NotImplementedError() | RecursionError():  # are RuntimeErrors, and this program's own
            return REPEATS, ""
        case RuntimeError():
            return LOST, ""
    return REPEATS, ""


def run_script(command: Callable[[], int | None]) -> None:
    """Runs a top-level script whose options are absl flags, and exits.

    A wrong flag or configuration gives one line and status 2, like every other wrong input.
    """
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX report each of their steps
    app.run(lambda _: sys.exit(exit_status(command)), flags_parser=_parse_flags)


def _parse_flags(arguments: Sequence[str]) -> Any:
    try:
        left = flags.FLAGS(arguments)
        if len(left) > 1:
            raise flags.Error(f"unexpected argument {left[1]!r}")
    except Exception as error:  # a configuration file is a program, and can fail in any way
        sys.exit(_complain(_unknown_field(arguments) or configuration_error(error)))
    return left


def configuration_error(error: Exception) -> str:
    """One line of an error of ml_collections: the first, or that of the error in the configuration file itself."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if any(line.startswith("Traceback") for line in lines):
        return re.sub(r"^\w*Error: ", "", lines[-1])
    return lines[0]


def _unknown_field(arguments: Sequence[str]) -> str | None:
    """A line about a field that the experiment of `--config` has not, if that is what is wrong."""
    from seemore_jax.experiment import unknown_field  # not every command has one

    files = [argument.partition("=")[2] for argument in arguments if argument.startswith("--config=")]
    try:
        return unknown_field(files[-1], arguments) if files else None
    except InputError:  # then it is the file that is wrong
        return None


def _complain(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return REPEATS
