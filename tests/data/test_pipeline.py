"""If these fail, LR and HR patches do not match, or a run gets other samples after a restart or on more hosts."""

import io
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seemore_jax import InputError
from seemore_jax.data import write_image
from seemore_jax.data.degradation import JpegDegradation
from seemore_jax.data.patches import RandomPatch, crop, orient
from seemore_jax.data.pipeline import Batch
from seemore_jax.data.pipeline import training_batches as _training_batches
from seemore_jax.data.preparation import prepare
from seemore_jax.data.stored_pairs import StoredPair, TfdsSource, open_dataset

SCALE = 3
RNG = np.random.default_rng(0)


def enlarged(image: np.ndarray) -> np.ndarray:
    return image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def png(image: np.ndarray) -> bytes:
    return bytes(imagecodecs.png_encode(image))


class Images:
    """Random LR images of many sizes, smaller and larger than a patch; HR repeats each pixel of LR."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(count)
        self.lr = [rng.integers(0, 256, (*rng.integers(5, 20, 2), 3), dtype=np.uint8) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.lr)

    def __getitem__(self, index: int) -> StoredPair:
        lr = self.lr[index]
        return StoredPair(lr=png(lr), hr=png(enlarged(lr)))


def batches(
    count: int,
    first_step: int = 0,
    source: Images | TfdsSource | None = None,
    batch_size: int = 4,
    seed: int = 5,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    degradation: JpegDegradation | None = None,
) -> list[Batch]:
    iterator = _training_batches(
        source or Images(7),  # batches cross the ends of epochs, because 7 is no multiple of their size
        scale=SCALE,
        patch_size=8,
        batch_size=batch_size,
        seed=seed,
        first_step=first_step,
        process_index=process_index,
        process_count=process_count,
        num_workers=num_workers,
        degradation=degradation,
    )
    taken = list(itertools.islice(iterator, count))
    iterator.close()
    return taken


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.lr, other.lr)
        np.testing.assert_array_equal(one.hr, other.hr)


def test_lr_and_hr_show_the_same() -> None:
    for batch in batches(10):
        assert batch.lr.shape == (4, 8, 8, 3)
        assert batch.lr.dtype == batch.hr.dtype == np.uint8
        for lr, hr in zip(batch.lr, batch.hr, strict=True):
            np.testing.assert_array_equal(hr, enlarged(lr))


JPEG = JpegDegradation((30, 60), ("4:2:0", "4:4:4"), 0.25)


def test_a_degraded_sample_is_a_pure_function_of_its_number_too() -> None:
    whole = batches(6, degradation=JPEG)
    assert_same(whole[3:], batches(3, first_step=3, degradation=JPEG))
    assert_same([whole[0]], batches(1, degradation=JPEG, num_workers=1))
    clean = batches(6)
    np.testing.assert_array_equal([batch.hr for batch in whole], [batch.hr for batch in clean])
    changed = np.stack([batch.lr for batch in whole]) != np.stack([batch.lr for batch in clean])
    assert 0.5 < np.mean(changed.any(axis=(2, 3, 4))) < 1, "a share of the patches stays clean"


@pytest.mark.parametrize("first_step", [1, 2, 7, 100])
def test_any_step_can_be_the_first(first_step: int) -> None:
    assert_same(batches(first_step + 3)[first_step:], batches(3, first_step=first_step))


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_take_their_samples_of_the_same_batches(process_count: int) -> None:
    whole = batches(6, first_step=3, batch_size=8)
    for index in range(process_count):
        own = batches(6, first_step=3, batch_size=8, process_index=index, process_count=process_count)
        assert_same([Batch(batch.lr[index::process_count], batch.hr[index::process_count]) for batch in whole], own)


def test_worker_processes_change_nothing() -> None:
    assert_same(batches(12, first_step=1), batches(12, first_step=1, num_workers=2))


def test_the_batch_size_does_not_change_the_samples() -> None:
    singles = batches(12, batch_size=1)
    fours = batches(3)
    np.testing.assert_array_equal(np.concatenate([b.hr for b in singles]), np.concatenate([b.hr for b in fours]))


def test_the_seed_changes_the_samples() -> None:
    assert not np.array_equal(batches(1, seed=1)[0].lr, batches(1, seed=2)[0].lr)


class Constants(Images):
    """Images that are filled with their number."""

    def __init__(self, count: int) -> None:
        self.lr = [np.full((9, 9, 3), number, np.uint8) for number in range(count)]


def test_each_epoch_has_every_image_once_in_another_order() -> None:
    order = np.concatenate([batch.lr[:, 0, 0, 0] for batch in batches(30, source=Constants(20))])
    epochs = order.reshape(6, 20).tolist()
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_all_orientations_and_positions_occur_equally_often() -> None:
    lr = np.arange(3 * 3 * 3, dtype=np.uint8).reshape(3, 3, 3)
    example = StoredPair(lr=png(lr), hr=png(enlarged(lr)))
    transform = RandomPatch(SCALE, 2)
    corners: dict[bytes, int] = {}
    for number in range(3200):
        patch, _ = transform.random_map(example, np.random.default_rng(number))
        corners[patch.tobytes()] = corners.get(patch.tobytes(), 0) + 1
    assert len(corners) == 8 * 4
    assert 50 < min(corners.values()) <= max(corners.values()) < 160  # 100 each on average


@given(flip_x=st.booleans(), flip_y=st.booleans(), transpose=st.booleans())
def test_orientations_pixel_by_pixel(flip_x: bool, flip_y: bool, transpose: bool) -> None:
    image = RNG.integers(0, 256, (3, 5, 3), dtype=np.uint8)
    turned = orient(image, flip_x, flip_y, transpose)
    for row in range(3):
        for column in range(5):
            place = (2 - row if flip_y else row, 4 - column if flip_x else column)
            np.testing.assert_array_equal(turned[place[::-1] if transpose else place], image[row, column])


@given(height=st.integers(1, 9), width=st.integers(1, 9), top=st.integers(0, 4), left=st.integers(0, 4))
def test_crops_and_their_mirrored_extension(height: int, width: int, top: int, left: int) -> None:
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    top, left = min(top, max(height - 4, 0)), min(left, max(width - 4, 0))
    cropped = crop(image, top, left, 4)
    for row in range(4):
        for column in range(4):
            place = (mirrored(top + row, height), mirrored(left + column, width))
            np.testing.assert_array_equal(cropped[row, column], image[place])


def mirrored(index: int, length: int) -> int:
    """Returns the mirrored index: 0 1 2 | 2 1 0 | 0 1 2 …"""
    index %= 2 * length
    return min(index, 2 * length - 1 - index)


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg")
    return buffer.getvalue()


@pytest.mark.parametrize("encode", [png, jpeg])
def test_grey_and_other_formats_become_rgb(encode: Callable[[np.ndarray], bytes]) -> None:
    example = StoredPair(lr=encode(np.full((8, 8), 77, np.uint8)), hr=encode(np.full((24, 24), 77, np.uint8)))
    lr, hr = RandomPatch(SCALE, 8).random_map(example, np.random.default_rng(0))
    assert lr.shape == (8, 8, 3)
    assert hr.shape == (24, 24, 3)
    assert (lr == 77).all()


@pytest.mark.parametrize(
    ("hr", "complaint"),
    [
        (png(np.zeros((16, 16, 3), np.uint8)), "is not 3 times"),
        (b"", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
    ],
)
def test_what_does_not_fit_is_refused(hr: bytes, complaint: str) -> None:
    example = StoredPair(lr=png(np.zeros((8, 8, 3), np.uint8)), hr=hr)
    with pytest.raises(InputError, match=complaint) as raised:
        RandomPatch(SCALE, 8).random_map(example, np.random.default_rng(0))
    assert "\n" not in str(raised.value)


def test_processes_must_divide_the_batch() -> None:
    with pytest.raises(InputError, match="batch_size: 6 is not divisible among 4 processes"):
        batches(1, batch_size=6, process_count=4)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    for number in range(5):
        write_image(folder / "in" / f"{number}.png", RNG.integers(0, 256, (60, 45, 3), dtype=np.uint8))
    prepare("image_folder", folder, scales=(2, SCALE), sources=[folder / "in"])
    return folder


def test_a_prepared_dataset_gives_batches(prepared: Path) -> None:
    source = open_dataset("image_folder", prepared, SCALE)
    assert len(source) == 5
    copy = pickle.loads(pickle.dumps(source))
    assert copy[3] == source[3]
    assert batches(1, source=source)[0].hr.shape == (4, 24, 24, 3)


@pytest.mark.parametrize("place", ["photos/1.0.0", "photos/sharp/2.1.0"])
def test_datasets_of_others_work_too(prepared: Path, tmp_path: Path, place: str) -> None:
    shutil.copytree(prepared / "image_folder" / f"x{SCALE}" / "1.0.0", tmp_path / place)
    source = open_dataset(place.rpartition("/")[0], tmp_path, SCALE)
    assert source[2] == open_dataset("image_folder", prepared, SCALE)[2]


def test_the_newest_version_is_taken(prepared: Path, tmp_path: Path) -> None:
    for version in ("1.0.0", "10.0.0", "9.0.0"):
        shutil.copytree(prepared / "image_folder" / f"x{SCALE}" / "1.0.0", tmp_path / "photos" / version)
    (tmp_path / "photos" / "incomplete.ABC_99.0.0").mkdir()
    assert "10.0.0" in str(open_dataset("photos", tmp_path, SCALE)._folder)


class OtherImages(tfds.core.ShardBasedBuilder):
    """A dataset of single images instead of pairs."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _shard_iterators_per_split(self, dl_manager: object) -> dict[str, list[Callable[[], Iterator[tuple]]]]:
        return {"train": [lambda: iter([("x", {"image": png(Images(1).lr[0]), "label": 1})])]}


def test_other_features_are_named(tmp_path: Path) -> None:
    OtherImages(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    with pytest.raises(InputError, match="needs the image features lr and hr, has image, label"):
        open_dataset("other_images", tmp_path, SCALE)


def test_unusable_datasets_give_one_line(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "image_folder" / f"x{SCALE}", tmp_path / "damaged")
    next((tmp_path / "damaged" / "1.0.0").glob("*.array_record*")).write_bytes(b"damaged")
    shutil.copytree(prepared / "image_folder" / f"x{SCALE}", tmp_path / "half")
    (tmp_path / "half" / "1.0.0" / "dataset_info.json").write_text("{")
    for name, folder, complaint in [
        ("image_folder", tmp_path, f"prepare image_folder --data_dir={tmp_path} --scale 3 --source=FOLDER"),
        ("div2k", tmp_path, f"python -m seemore_jax prepare div2k --data_dir={tmp_path} --scale 3$"),
        ("df2k/x3", tmp_path, f"prepare df2k --data_dir={tmp_path} --scale 3 --manual_dir=FOLDER"),
        ("mine", tmp_path, "no prepared dataset; name your own dataset as NAME or NAME/CONFIG"),
        ("image_folder/x2", prepared, "is not 3 times LR .* another scale"),
        ("damaged", tmp_path, "damaged"),
        ("half", tmp_path, "half"),
    ]:
        with pytest.raises(InputError, match=complaint) as raised:
            open_dataset(name, folder, SCALE)
        assert "\n" not in str(raised.value)


_KILLED = """
import multiprocessing, os, signal
from tests.data.test_pipeline import Images, _training_batches
if __name__ == "__main__":
    source = Images(7)
    batches = _training_batches(
        source, scale=3, patch_size=8, batch_size=4, seed=0, first_step=0, num_workers=1
    )
    next(batches)
    workers = [process.pid for process in multiprocessing.active_children()]
    for worker in workers:
        os.kill(worker, signal.SIGINT)
        os.kill(worker, signal.SIGTERM)
    for _ in range(20):
        next(batches)
    print(*workers, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_outlive_signals_to_the_group_but_not_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"  # in a file, because workers import the main module
    script.write_text(_KILLED)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with (tmp_path / "out").open("w+") as out:  # a pipe would stay open as long as the workers run
        subprocess.run(
            [sys.executable, script], cwd=root, env=environment, stdout=out, stderr=subprocess.DEVNULL, timeout=60
        )
        out.seek(0)
        workers = [int(pid) for pid in out.read().split()]
    assert len(workers) == 1
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
