"""If these fail, the disk fills up with pictures, or a visitor loses a picture too early."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from seemore_jax.system.errors import InputError
from seemore_jax.web.storage import LIFETIME, Storage


def test_a_full_disk_refuses_results(folder: Path) -> None:
    storage = Storage(folder)
    storage.limit = 10
    (storage.new_folder() / "file").write_bytes(b"x" * 10)
    assert not storage.is_full()
    (storage.new_folder() / "file").write_bytes(b"x")
    assert storage.is_full()
    with pytest.raises(InputError, match="no room"):
        storage.new_folder()


def test_old_files_and_their_folders_are_deleted(folder: Path) -> None:
    storage, now = Storage(folder), time.time()
    for name, age in (("old", LIFETIME + 60), ("new", LIFETIME - 60)):
        (folder / name / "before").mkdir(parents=True)
        (folder / name / "before" / "file").write_bytes(b"x")
        for path in (folder / name / "before" / "file", folder / name / "before", folder / name):
            os.utime(path, (now - age, now - age))
    storage.delete_old(now)
    assert not (folder / "old" / "before" / "file").exists()
    assert (folder / "new" / "before" / "file").exists()
    storage.delete_old(now + LIFETIME + 60)  # the folders changed when their files were deleted
    storage.delete_old(now + 2 * LIFETIME + 120)
    assert list(folder.iterdir()) == []


def test_files_that_somebody_waits_for_are_kept(folder: Path) -> None:
    storage, now = Storage(folder), time.time()
    (folder / "file").write_bytes(b"x")
    os.utime(folder / "file", (now - 2 * LIFETIME, now - 2 * LIFETIME))
    storage.keep([folder / "gone", folder / "file"])
    storage.delete_old(now)
    assert (folder / "file").exists()


def test_files_that_are_deleted_meanwhile_do_no_harm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old files are deleted in a thread of its own."""
    storage = Storage(folder)
    (folder / "gone").mkdir()
    for name in ("a", "b", "gone/c"):
        (folder / name).write_bytes(b"x" * 5)
    stat, scandir = Path.stat, os.scandir

    def deleting_stat(path: Path, **options: Any) -> os.stat_result:
        if path.name == "a":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    def deleting_scandir(path: Any) -> Any:
        if not isinstance(path, int) and Path(path).name == "gone":
            shutil.rmtree(path, ignore_errors=True)
        return scandir(path)

    monkeypatch.setattr(Path, "stat", deleting_stat)
    monkeypatch.setattr(os, "scandir", deleting_scandir)
    storage.limit = 4
    assert storage.is_full()
    storage.limit = 5
    assert not storage.is_full()
