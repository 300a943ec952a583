"""Switches off what image decoders print while files are read: what they cannot read, they raise."""

import contextlib
import ctypes
import logging
import re
import threading
import warnings
from typing import Any, cast

from PIL import Image

_DECODERS = ("PIL", "tifffile", "imagecodecs")

# Without a handler of the user's, Python would print the decoders' log records to the terminal.
for _decoder in _DECODERS:
    logging.getLogger(_decoder).addHandler(logging.NullHandler())


class _WhileReading(contextlib.AbstractContextManager[None]):
    """Changes a setting of the whole process while any thread reads; the last thread restores it."""

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
                self._put_back()

    def _change(self) -> None:
        raise NotImplementedError

    def _put_back(self) -> None:
        raise NotImplementedError


class _WarningsOff(_WhileReading):
    """Decoders warn of odd files; those that cannot be read raise.

    `warnings.catch_warnings` would silence all other threads too, and does not nest across threads. This adds one
    filter, for the decoders alone, and takes no other away.
    """

    _FILTER = ("ignore", None, Warning, re.compile(rf"({'|'.join(_DECODERS)}|seemore_jax\.data)\b"), 0)

    def __init__(self) -> None:
        super().__init__()
        self._changed: list[list[Any]] = []

    def _change(self) -> None:
        filters: Any = warnings.filters
        if filters[:1] != [self._FILTER]:  # whoever added a filter meanwhile has it before this one
            filters.insert(0, self._FILTER)
        if not any(filters is changed for changed in self._changed):
            self._changed.append(filters)

    def _put_back(self) -> None:
        # Two lists or more where another thread is in `catch_warnings`, which works on a copy.
        for filters in (*self._changed, cast(list[Any], warnings.filters)):
            with contextlib.suppress(ValueError):  # no more of them
                while True:
                    filters.remove(self._FILTER)
        self._changed.clear()


class _LibtiffMessagesOff(_WhileReading):
    """The libtiff within Pillow prints what it finds odd; what Pillow raises is enough."""

    _previous: int | None = None

    def _change(self) -> None:
        if not self._readers:
            self._previous = _set_libtiff_handler(None)

    def _put_back(self) -> None:
        _set_libtiff_handler(self._previous)


def _set_libtiff_handler(handler: int | None) -> int | None:
    """Replaces the address of the function that reports errors; where libtiff cannot be reached, it goes on."""
    with contextlib.suppress(AttributeError, OSError):
        replace = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
        replace.restype, replace.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        return replace(handler)
    return None


decoder_warnings_off, libtiff_messages_off = _WarningsOff(), _LibtiffMessagesOff()
