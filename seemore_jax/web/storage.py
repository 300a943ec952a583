"""The folder with uploads and results: how full it is, and which files are old enough to be deleted."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from seemore_jax.system.errors import InputError

# The age in seconds at which a file is deleted, and the seconds between two looks at the files.
LIFETIME = 3600
_LOOK = 300
# The share of the free disk that all files may take together.
_SHARE = 0.5


class Storage:
    """Limits how many bytes the files of uploads and results take, and deletes old ones."""

    def __init__(self, folder: Path) -> None:
        """Takes an empty folder, and measures how many bytes its files may take.

        Args:
          folder: the folder.
        """
        self.folder = folder
        self.limit = int(_SHARE * shutil.disk_usage(folder).free)

    def new_folder(self) -> Path:
        """Makes a folder for a result.

        Raises:
          InputError: there are too many files already.
        """
        if self.is_full():
            raise InputError("The server has no room for more pictures now. Please try again later.")
        return Path(tempfile.mkdtemp(dir=self.folder))

    def is_full(self) -> bool:
        """Returns whether the files take more bytes than they may. Files may be deleted at the same time."""
        return sum(_size(file) for file in self._files()) > self.limit

    def delete_old(self, now: float) -> None:
        """Deletes the files that have not been changed for `LIFETIME` seconds, and empty folders.

        Args:
          now: the time in seconds, as `time.time` returns it.
        """
        for file in self._files():
            with contextlib.suppress(FileNotFoundError):
                if now - file.stat().st_mtime > LIFETIME:
                    file.unlink()
        for name, folders, files in os.walk(self.folder, topdown=False):
            is_old = not folders and not files and Path(name) != self.folder
            with contextlib.suppress(OSError):  # it got a file meanwhile, or is gone
                if is_old and now - Path(name).stat().st_mtime > LIFETIME:
                    Path(name).rmdir()

    def keep(self, files: Sequence[Path]) -> None:
        """Marks files as new, because somebody waits for them.

        Args:
          files: the files. Those that are gone are left out.
        """
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                os.utime(file)

    def delete_old_regularly(self) -> None:
        """Starts a thread that deletes old files as long as the process lives."""

        def run() -> None:
            while True:
                time.sleep(_LOOK)
                self.delete_old(time.time())

        threading.Thread(target=run, daemon=True, name="deletion of old files").start()

    def _files(self) -> list[Path]:
        return [Path(name, file) for name, _, files in os.walk(self.folder) for file in files]


def _size(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size
    return 0
