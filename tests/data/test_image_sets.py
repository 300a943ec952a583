"""If these fail, images are missed, or LR and HR of different images are compared."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from seemore_jax import InputError, imresize
from seemore_jax.data import write_image
from seemore_jax.data.image_sets import find_image_sets

HR = np.random.default_rng(0).integers(0, 256, (26, 21, 3), dtype=np.uint8)


def make(folder: Path, files: Iterable[str], image: np.ndarray = HR) -> None:
    for name in files:
        write_image(folder / name, image)


def test_flat_folders_sets_and_folders_of_sets(tmp_path: Path) -> None:
    make(tmp_path / "flat", ["b.png", "a.jpg"])
    make(tmp_path / "sets" / "Set5" / "HR", ["baby.png"])
    make(tmp_path / "sets" / "Loose", ["x.png"])
    (tmp_path / "sets" / "notes").mkdir()
    (tmp_path / "flat" / "readme.txt").write_text("not an image")
    (tmp_path / "flat" / "._a.png").write_text("what some systems leave")
    found = find_image_sets([tmp_path / "flat", tmp_path / "sets"], 4)
    assert [(s.name, [p.name for p in s.pairs]) for s in found] == [
        ("flat", ["a", "b"]),
        ("Loose", ["x"]),
        ("Set5", ["baby"]),
    ]


def test_single_files_together_are_one_set(tmp_path: Path) -> None:
    make(tmp_path / "some", ["b.png", "a.jpg"])
    make(tmp_path / "others", ["c.png"])
    make(tmp_path / "flat", ["d.png"])
    paths = [tmp_path / "some" / "b.png", tmp_path / "flat", tmp_path / "others" / "c.png"]
    assert [(s.name, [(p.name, p.lr) for p in s.pairs]) for s in find_image_sets(paths, 4)] == [
        ("flat", [("d", None)]),
        ("images", [("b", None), ("c", None)]),
    ]


@pytest.mark.parametrize(
    ("hr_name", "lr_name"),
    [("baby", "babyx4"), ("ARMS", "ARMS_LRBI_x4"), ("img_001_SRF_4_HR", "img_001_SRF_4_LR"), ("same", "same")],
)
def test_lr_files_are_found_under_every_usual_name(tmp_path: Path, hr_name: str, lr_name: str) -> None:
    make(tmp_path / "S" / "HR", [f"{hr_name}.png"])
    lr = np.full((6, 5, 3), 7, np.uint8)
    make(tmp_path / "S" / "LR_bicubic" / "X4", [f"{lr_name}.png"], lr)
    (pair,) = find_image_sets([tmp_path / "S"], 4)[0].pairs
    assert pair.name == hr_name
    read_lr, read_hr = pair.read(4)
    np.testing.assert_array_equal(read_lr, lr)
    np.testing.assert_array_equal(read_hr, HR[:24, :20])
    (other_scale,) = find_image_sets([tmp_path / "S"], 2)[0].pairs
    assert other_scale.lr is None


def test_without_lr_files_bicubic_of_the_cropped_hr(tmp_path: Path) -> None:
    make(tmp_path, ["x.png"])
    (pair,) = find_image_sets([tmp_path], 4)[0].pairs
    lr, hr = pair.read(4)
    np.testing.assert_array_equal(hr, HR[:24, :20])
    np.testing.assert_array_equal(lr, imresize(HR[:24, :20], 1 / 4))


def test_grey_is_repeated_to_three_channels(tmp_path: Path) -> None:
    make(tmp_path, ["x.png"], HR[..., 0])
    lr, hr = find_image_sets([tmp_path], 2)[0].pairs[0].read(2)
    assert lr.shape == (13, 10, 3)
    np.testing.assert_array_equal(hr, np.repeat(HR[:26, :20, :1], 3, axis=2))


@pytest.mark.parametrize("lr_shape", [(6, 4), (7, 5), (26, 21), (5, 5)])
def test_an_lr_file_of_another_size_is_refused(tmp_path: Path, lr_shape: tuple[int, int]) -> None:
    make(tmp_path / "S" / "HR", ["x.png"])
    make(tmp_path / "S" / "LR_bicubic" / "X4", ["xx4.png"], np.zeros(lr_shape, np.uint8))
    with pytest.raises(InputError, match=r"xx4\.png"):
        find_image_sets([tmp_path / "S"], 4)[0].pairs[0].read(4)


def test_unusable_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make(tmp_path / "a" / "Set5", ["x.png"])
    make(tmp_path / "b" / "Set5", ["x.png"])
    make(tmp_path / "twins", ["x.png", "x.jpg"])
    make(tmp_path / "tiny", ["x.png"], HR[:3, :3])
    (tmp_path / "notes.txt").write_text("not an image")
    for folders, complaint in [
        (["missing"], "missing: no such folder"),
        (["empty"], "empty: no images"),
        (["a", "b"], "two sets are called Set5"),
        (["twins"], "two images are called x"),
        (["a/Set5/x.png", "b/Set5/x.png"], "two images are called x"),
        (["notes.txt"], "notes.txt: no such folder or image"),
    ]:
        with pytest.raises(InputError, match=complaint):
            find_image_sets([tmp_path / folder for folder in folders], 4)
    with pytest.raises(InputError, match="too small"):
        find_image_sets([tmp_path / "tiny"], 4)[0].pairs[0].read(4)
