"""Files on disk and in object stores that are written whole or not at all, and the user's cache."""

import contextlib
import os
import secrets
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from etils import epath

# A path on disk, or an address in an object store.
AnyPath: TypeAlias = Path | epath.Path


def path_of(name: str) -> AnyPath:
    """Returns the path of a file or folder on disk, or in an object store, such as gs://bucket/folder."""
    return epath.Path(name) if "://" in name else Path(name)


def on_disk(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is on disk, and not in an object store."""
    return "://" not in os.fspath(path)


@contextlib.contextmanager
def local_copy(name: str) -> Iterator[Path]:
    """Yields a path on disk with the content of a file. A file in an object store is copied while the block runs."""
    if on_disk(name):
        yield Path(name)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = epath.Path(name)
        copy = Path(folder) / source.name
        copy.write_bytes(source.read_bytes())
        yield copy


@contextlib.contextmanager
def with_file_name(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds the file name to OSErrors that lack one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it to `path` if the block succeeds.

    Missing folders are created. If the block raises, `path` stays as it was. The new file takes over the permissions of
    the file that it replaces. A symbolic link is replaced, not the file that it leads to.

    Args:
      path: the file to write, on disk or in an object store.

    Raises:
      OSError: the file cannot be written.
    """
    if not on_disk(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / epath.Path(path).name
            yield temporary
            epath.Path(path).write_bytes(temporary.read_bytes())  # object stores replace all at once
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _unfinished.lock:
        temporary, mode = _create_beside(path)
        _unfinished.files.add(temporary)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.files.discard(temporary)


class _Unfinished:
    """The temporary files that threads of this process are writing."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: set[Path] = set()


_unfinished = _Unfinished()


def remove_unfinished_files() -> None:
    """Removes the temporary files that other threads are writing, and lets no thread begin another one.

    For a process that ends at once, without waiting for its threads.
    """
    _unfinished.lock.acquire()
    for temporary in list(_unfinished.files):
        temporary.unlink(missing_ok=True)


def _create_beside(path: Path) -> tuple[Path, int]:
    """Creates an empty file. Returns it and its final mode, which is that of the file to be replaced, if there is one.

    Otherwise the system chooses the mode of a new file. Python cannot read the process's umask without changing it for
    a moment, in which other threads may create files.
    """
    # The suffix stays, as writers choose the format by it; so does the folder, as a rename across disks is not atomic.
    # The name must not become too long.
    temporary = path.with_name(f".{path.stem[:50]}-{secrets.token_urlsafe(6)}{path.suffix}")
    old = _mode(path)
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if old is None else 0o600)
    try:
        return temporary, stat.S_IMODE(os.fstat(handle).st_mode) if old is None else old
    finally:
        os.close(handle)


def _mode(path: Path) -> int | None:
    """Returns the permissions of a regular file; None if there is no such file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    return stat.S_IMODE(mode) & 0o777 if stat.S_ISREG(mode) else None


def user_cache(name: str) -> Path:
    """Returns the folder seemore-jax/`name` in $XDG_CACHE_HOME (by default ~/.cache), and creates it if necessary.

    Args:
      name: such as "jax" or "kernels".

    Raises:
      OSError: the folder cannot be written, or belongs to another user, whose files must not be executed.
      RuntimeError: there is no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "seemore-jax" / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(folder)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise PermissionError(folder)
    return folder
