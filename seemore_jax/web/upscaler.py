"""Upscales the files of all visitors, one at a time, in a fair order."""

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from seemore_jax.data.images import Header, read_header
from seemore_jax.inference.runner import bucket
from seemore_jax.system.errors import InputError, one_line
from seemore_jax.web.cards import for_visitors, too_large, waiting
from seemore_jax.web.choices import Choices, Chosen
from seemore_jax.web.results import Result, upscale_upload
from seemore_jax.web.storage import Storage
from seemore_jax.web.turns import Turns

# The number of image sizes whose compiled programs are kept; each takes about 40 MB.
_PROGRAMS = 16
# Images with more pixels take so much memory that only one of them may be unfinished.
_LARGE = 2**19

# Function that is called with the fraction that is done, from 0 to 1, and what goes on. It may raise to stop the work.
Report = Callable[[float, str], None]


class Upscaler:
    """Upscales files.

    One visitor computes at a time. A large picture lets the pictures of others in between its strips; so a small
    picture does not wait until a large one is finished. Large pictures come one after the other.
    """

    def __init__(self, choices: Choices, storage: Storage, limits: Mapping[int, int]) -> None:
        """Takes what all visitors share.

        Args:
          choices: the models.
          storage: the folder for results.
          limits: the largest number of pixels of an input for each scale.
        """
        self.choices = choices
        self.storage = storage
        self.limits = limits
        self._turns, self._large = Turns(), Turns()
        self._compiled: set[Any] = set()

    def upscale(self, path: Path, label: str, report: Report) -> tuple[Chosen, Result]:
        """Upscales a file when it is its turn.

        Args:
          path: the uploaded file.
          label: the visitor's choice, one of `choices.scales()`.
          report: function that is called with the progress.

        Returns:
          The model, and the result.

        Raises:
          InputError: the file cannot be used. The message is for visitors.
        """
        scale = self.choices.scales()[label]
        header = read_header(path)  # None: reading the file gives the reason
        if header:
            self._check(path, header, scale)
        is_large = header is not None and header.width * header.height > _LARGE
        chosen = self.choices.choose(label, path)
        reached = 0.0

        def wait(ahead: int) -> None:
            report(reached, waiting(ahead))

        computing = threading.get_ident()
        with self._large.take(wait) if is_large else contextlib.nullcontext(), self._turns.take(wait) as turn:

            def progress(fraction: float) -> None:
                nonlocal reached
                reached = max(reached, fraction)
                report(reached, "")
                if threading.get_ident() == computing:  # another thread reports while this one computes
                    turn.pass_on()

            self._forget_programs(chosen.name, header)
            with self._folder() as folder:
                report(0.0, "")
                result = self._result(chosen, path, folder, progress)
        return chosen, dataclasses.replace(result, seconds=result.seconds - turn.waited)

    def _check(self, path: Path, header: Header, scale: int) -> None:
        """Raises InputError if a picture has too many pixels for a scale."""
        limit = self.limits[scale]
        if header.width * header.height > limit:
            raise InputError(too_large(path.name, (header.width, header.height), limit, scale))

    def _result(self, chosen: Chosen, path: Path, folder: Path, progress: Callable[[float], None]) -> Result:
        try:
            return upscale_upload(chosen.model, path, folder, self.limits[chosen.model.config.scale], progress)
        except InputError as error:
            raise InputError(for_visitors(str(error), path)) from error
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise InputError(f"{path.name}: the server cannot store the result: {reason}") from error

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """Yields a new folder, and deletes it if the block raises."""
        folder = self.storage.new_folder()
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _forget_programs(self, name: str, header: Header | None) -> None:
        """Deletes all compiled programs if the next picture needs a new one and there are `_PROGRAMS` already."""
        program = name, header and tuple(bucket(side, 1) for side in header[:2])
        if program not in self._compiled and len(self._compiled) >= _PROGRAMS:
            jax.clear_caches()
            self._compiled.clear()
        self._compiled.add(program)
