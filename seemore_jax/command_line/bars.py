"""Progress bars of the command `upscale`."""

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from seemore_jax.inference.jobs import Job
    from seemore_jax.inference.outcomes import Outcome

# A picture gets a bar when it has taken so many seconds.
_DELAY = 1.0
_COLUMNS, _ROWS = 80, 24
_WITHIN = "{desc}: {percentage:3.0f}%|{bar}| {remaining}"


class Bars(contextlib.AbstractContextManager["Bars"]):
    """A bar over all files, and one within each picture that takes long. Without a terminal, none is shown.

    Args:
      total: number of files; None for one file alone, which has no bar over all.
      quiet: whether to show no bars in any case.
    """

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        self._hidden = True if quiet else None  # None: tqdm hides the bar where there is no terminal
        hidden = True if total is None else self._hidden
        self._files = tqdm(total=total, unit="image", desc="upscaling", disable=hidden, **_size())
        self._within: dict[Job, Any] = {}
        self._lock = threading.Lock()

    def show(self, job: "Job", share: float) -> None:
        """Shows the progress of a picture. Several threads may call this.

        Args:
          job: the job of the picture.
          share: fraction that is done, from 0 to 1.
        """
        with self._lock:
            if job not in self._within:
                self._within[job] = tqdm(
                    total=1.0,
                    desc=job.source.name,
                    leave=False,
                    bar_format=_WITHIN,
                    disable=self._hidden,
                    delay=_DELAY,
                    miniters=0,  # else tqdm would wait for steps as large as the first ones
                    **_size(),
                )
            bar = self._within[job]
            if share > bar.n:
                bar.update(share - bar.n)

    def finish(self, outcome: "Outcome") -> None:
        """Removes the bar of a file that is finished.

        Args:
          outcome: what became of the file.
        """
        with self._lock:
            bar = self._within.pop(outcome.job, None)
        if bar is not None:
            bar.close()
        self._files.update()

    def write(self, line: str) -> None:
        """Prints a line on standard error, above the bars.

        Args:
          line: the line.
        """
        self._files.write(line, file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        for bar in self._within.values():
            bar.close()
        self._files.close()


def _size() -> dict[str, Any]:
    """Returns the size of the terminal for tqdm if the terminal does not know its own."""
    with contextlib.suppress(OSError, ValueError):  # standard error is no terminal
        if os.get_terminal_size(sys.stderr.fileno()).columns == 0:
            return {"ncols": _COLUMNS, "nrows": _ROWS}
    return {}
