"""Files that an interruption, an error or a full disk leaves whole, on disk and in object stores; the user's cache."""

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from etils import epath

# On disk, or an address in an object store.
AnyPath: TypeAlias = Path | epath.Path


def path_of(name: str) -> AnyPath:
    """The path of a file or folder on disk, or at an address such as gs://bucket/folder."""
    return epath.Path(name) if "://" in name else Path(name)


def on_disk(path: str | os.PathLike[str]) -> bool:
    """Whether a path is not an address in an object store."""
    return "://" not in os.fspath(path)


@contextlib.contextmanager
def local_copy(name: str) -> Iterator[Path]:
    """Yields a path on disk with the content of a file: its own, or that of a copy while the block runs."""
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
    """Lets errors of the system that name no file name this one: that a disk is full shows when a file is written."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what was written there takes its place if the block succeeds.

    Missing folders are made. If the block raises, `path` is as it was before. A file that is replaced leaves its
    permissions to the new one; a link is replaced, not what it leads to.
    """
    if not on_disk(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / epath.Path(path).name
            yield temporary
            epath.Path(path).write_bytes(temporary.read_bytes())  # object stores replace all at once
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, mode = _create_beside(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _create_beside(path: Path) -> tuple[Path, int]:
    """A new empty file, and the mode that it is to have in the end: that of the file which it replaces, if any.

    Without one, the system gives it a new file's mode. To ask the process for its umask is to set it for a moment,
    under which other threads may make files.
    """
    # Same suffix (writers choose the format by it), same folder (a rename across disks is not atomic), and no name that
    # is too long where that of the path is not.
    temporary = path.with_name(f".{path.stem[:50]}-{secrets.token_urlsafe(6)}{path.suffix}")
    old = _mode(path)
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if old is None else 0o600)
    try:
        return temporary, stat.S_IMODE(os.fstat(handle).st_mode) if old is None else old
    finally:
        os.close(handle)


def _mode(path: Path) -> int | None:
    """The permissions of a file; None where there is none, or something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    return stat.S_IMODE(mode) & 0o777 if stat.S_ISREG(mode) else None


def user_cache(name: str) -> Path:
    """The folder seemore-jax/`name` in $XDG_CACHE_HOME, by default in ~/.cache; made if it is missing.

    Raises:
      OSError: it cannot be written, or is another user's, who could have anything run here.
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
