"""If these fail, files are lost or cut off by what happens while they are written, on disk or in an object store."""

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

import seemore_jax as sj
from seemore_jax.system.files import atomic_write, local_copy, path_of
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.records import Records, read_history, write_setup
from tests.support import tiny_config
from tests.support.release import zeros
from tests.training.test_records import metrics


class _Store(MemoryFileSystem):
    """A bucket in memory, under the addresses of Google's."""

    protocol = "gs"

    def __init__(self, *arguments: Any, finalize_on_close: bool = True, **options: Any) -> None:
        super().__init__(*arguments, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("gs://", "memory://")))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[epath.Path]:
    for protocol in ("gs", "gcs"):
        monkeypatch.setitem(_registry, protocol, _Store)
    yield epath.Path("gs://bucket")
    MemoryFileSystem.store.clear()


def test_paths() -> None:
    assert path_of("runs/one") == Path("runs/one")
    assert str(path_of("gs://bucket/runs") / "one") == "gs://bucket/runs/one"


def test_weights_to_a_store_and_back(bucket: epath.Path) -> None:
    model = zeros(sj.SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1))
    target = bucket / "weights" / "final.safetensors"
    with atomic_write(target) as temporary:
        sj.save(model, temporary)
    with local_copy(str(target)) as path:
        assert sj.load(path).config == model.config


def test_a_failed_write_leaves_a_store_as_it_was(bucket: epath.Path) -> None:
    def fail() -> None:
        with atomic_write(bucket / "file.txt") as temporary:
            temporary.write_text("af")
            raise OSError("half")

    (bucket / "file.txt").write_text("before")
    with pytest.raises(OSError, match="half"):
        fail()
    assert (bucket / "file.txt").read_text() == "before"


def test_records_in_a_store_go_on(bucket: epath.Path) -> None:
    write_setup(bucket, Experiment.of(tiny_config.get_config()))
    write_setup(bucket, Experiment.of(tiny_config.get_config()))  # reads what is there
    for first_step in (0, 2):
        records = Records(bucket, first_step)
        for step in (first_step + 1, first_step + 2, first_step + 3):
            records.training(step, metrics(l1=1.0), learning_rate=1e-3, images_per_second=50.0)
        records.upload()
        records.close()
    assert [entry["step"] for entry in read_history(bucket / "history.jsonl")] == [1, 2, 3, 4, 5]
    assert (bucket / "curves.png").exists()
    assert list((bucket / "tensorboard").iterdir())


@pytest.mark.parametrize("stem", ["x" * 251, "ü" * 125])
def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path, stem: str) -> None:
    with atomic_write(tmp_path / f"{stem}.png") as temporary:
        temporary.write_bytes(b"content")
    assert [path.stem for path in tmp_path.iterdir()] == [stem]


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o664])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    """Otherwise others could read what its owner keeps to himself."""
    path = tmp_path / "private.txt"
    path.touch()
    path.chmod(mode)
    with atomic_write(path) as temporary:
        assert permissions(temporary) & ~mode & 0o077 == 0  # nor can they while it is written
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert permissions(path) == mode


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("there.txt")
    with atomic_write(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert not (tmp_path / "link.txt").is_symlink()
    assert permissions(tmp_path / "link.txt") & 0o111 == 0  # those of a link are 777
    assert (tmp_path / "there.txt").read_text() == "old"


_WITH_UMASK = """
import os, sys
from pathlib import Path
from seemore_jax.system.files import atomic_write
os.umask(0o027)

def fail(mask):
    raise AssertionError("the umask is of the whole process: files of other threads would get this one")

os.umask = fail
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.unlink()  # some writers make the file anew
    os.close(os.open(temporary, os.O_CREAT, 0o777))
"""


def test_a_new_file_has_the_permissions_of_new_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _WITH_UMASK, tmp_path / "new.txt"], check=True)
    assert permissions(tmp_path / "new.txt") == 0o640
