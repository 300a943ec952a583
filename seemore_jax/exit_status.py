"""How every command of this project ends: what went wrong in one line, and an exit status."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from seemore_jax.errors import InputError

INTERRUPTED = 130  # by Ctrl-C, as shells have it


def exit_status(command: Callable[[], int | None]) -> int:
    """Runs a command; returns its status, 0 if it has none.

    2 stands for inputs that cannot be used, memory that does not suffice included, 130 for Ctrl-C. Errors in this
    program itself are not caught: their traceback is what a report needs.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without × and → must not stop a command
    try:
        return command() or 0
    except InputError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(" ".join(str(error).split()))
    except MemoryError:
        return _complain("out of memory")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _complain(f"out of memory on the device ({str(error).splitlines()[0]})")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


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
        lines = [line for line in str(error).splitlines() if line.strip()]
        sys.exit(_complain(lines[0] if lines else type(error).__name__))
    return left


def _complain(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return 2
