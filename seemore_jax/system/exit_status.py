"""Exit statuses, and errors in one line, for every command of this project.

Launchers decide by the exit status: a run that a lost host has ended must be started again; a run that would fail in
the same way again must not.

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

import sys
import traceback
from collections.abc import Callable

from seemore_jax.system.errors import InputError

LOST = 1
REPEATS = 2
INTERRUPTED = 130  # by Ctrl-C, as shells have it


def exit_status(command: Callable[[], int | None]) -> int:
    """Runs a command, prints its error, and returns the exit status, which the table above explains.

    Args:
      command: returns an exit status, or None for 0.
    """
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
            print(f"error: {line}", file=sys.stderr)
        else:
            traceback.print_exc()
        return status


def explain(error: BaseException) -> tuple[int, str]:
    """Returns the exit status for an error, and one line about it, which is empty if only a traceback explains it."""
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
        case RuntimeError() if "RESOURCE_EXHAUSTED" in str(error):  # JAX's own error is one
            return REPEATS, f"out of memory on the device ({str(error).splitlines()[0]})"
        case NotImplementedError() | RecursionError():  # are RuntimeErrors, and this program's own
            return REPEATS, ""
        case RuntimeError():
            return LOST, ""
    return REPEATS, ""
