"""Silences the image decoders while files are read. Files that cannot be read still raise exceptions."""

import contextlib
import ctypes
import logging
import re
import threading
import warnings
from typing import Any, cast

from PIL import Image

_DECODERS = ("PIL", "tifffile", "imagecodecs")

# Without any handler, Python would print the log records of the decoders to the terminal.
for _decoder in _DECODERS:
    logging.getLogger(_decoder).addHandler(logging.NullHandler())


class _WhileReading(contextlib.AbstractContextManager[None]):
    """A context that changes a setting of the whole process while any thread reads; the last thread restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0

    def __enter__(self) -> None:
        with self._lock:
            self._change()
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._restore()

    def _change(self) -> None:
        raise NotImplementedError

    def _restore(self) -> None:
        raise NotImplementedError


class _WarningsOff(_WhileReading):
    """A context without the warnings of the decoders about unusual files.

    `warnings.catch_warnings` would also silence all other threads, and it does not nest across threads. This context
    adds one filter, which concerns only the decoders, and leaves all other filters as they are.
    """

    _FILTER = ("ignore", None, Warning, re.compile(rf"({'|'.join(_DECODERS)}|seemore_jax\.data)\b"), 0)

    def __init__(self) -> None:
        super().__init__()
        self._changed: list[list[Any]] = []

    def _change(self) -> None:
        filters: Any = warnings.filters
        if filters[:1] != [self._FILTER]:  # another thread may have put a filter before this one
            filters.insert(0, self._FILTER)
        if not any(filters is changed for changed in self._changed):
            self._changed.append(filters)

    def _restore(self) -> None:
        # There are several lists if another thread is in `catch_warnings`, which works on a copy.
        for filters in (*self._changed, cast(list[Any], warnings.filters)):
            with contextlib.suppress(ValueError):  # ends the loop when the list has no such filter
                while True:
                    filters.remove(self._FILTER)
        self._changed.clear()


class _LibtiffMessagesOff(_WhileReading):
    """A context in which the libtiff inside Pillow prints no messages. Pillow still raises exceptions."""

    _previous: int | None = None

    def _change(self) -> None:
        if not self._readers:
            self._previous = _set_libtiff_handler(None)

    def _restore(self) -> None:
        _set_libtiff_handler(self._previous)


def _set_libtiff_handler(handler: int | None) -> int | None:
    """Replaces the function that reports libtiff's errors, and returns the old one. Does nothing without libtiff."""
    with contextlib.suppress(AttributeError, OSError):
        replace = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
        replace.restype, replace.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        return replace(handler)
    return None


decoder_warnings_off, libtiff_messages_off = _WarningsOff(), _LibtiffMessagesOff()
