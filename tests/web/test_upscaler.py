"""If these fail, a picture waits for a larger one of somebody else, or leaves files behind."""

import errno
import threading
from pathlib import Path

import numpy as np
import pytest

import seemore_jax as sj
from seemore_jax.data.image_writing import write_image
from seemore_jax.data.images import read_header, read_image
from seemore_jax.web import upscaler as module
from seemore_jax.web.choices import Choices
from seemore_jax.web.results import Result
from seemore_jax.web.storage import Storage
from seemore_jax.web.upscaler import Upscaler

RANDOM = np.random.default_rng(0)


class GaveUp(Exception):
    pass


@pytest.fixture
def upscaler(choices: Choices, folder: Path) -> Upscaler:
    return Upscaler(choices, Storage(folder), {2: 10**6})


def silent(fraction: float, text: str) -> None:
    del fraction, text


def test_a_file_is_upscaled_by_the_chosen_model(upscaler: Upscaler, tmp_path: Path) -> None:
    image = RANDOM.integers(0, 256, (16, 18, 3), dtype=np.uint8)
    write_image(tmp_path / "a.png", image)
    chosen, result = upscaler.upscale(tmp_path / "a.png", "×2", silent)
    assert chosen.name == "T-x2"
    np.testing.assert_array_equal(read_image(result.target), sj.upscale(chosen.model, image))


def test_a_wrong_file_is_explained_and_leaves_nothing(upscaler: Upscaler, folder: Path, tmp_path: Path) -> None:
    upscaler.limits = {2: 399}
    write_image(tmp_path / "large.png", np.zeros((20, 20), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"broken")
    for name, reason in [
        ("large.png", "20×20 pixels are too many.* up to 399 pixels"),
        ("broken.png", "not a readable"),
    ]:
        with pytest.raises(sj.InputError, match=f"^{name}: .*{reason}"):
            upscaler.upscale(tmp_path / name, "×2", silent)
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_explained_and_leaves_nothing(
    upscaler: Upscaler, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_tiles(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "before" / "0-0-0.png"))

    monkeypatch.setattr("seemore_jax.web.results.write_tiles", write_tiles)
    write_image(tmp_path / "a.png", np.zeros((16, 18, 3), np.uint8))
    with pytest.raises(sj.InputError, match=r"^a\.png: the server cannot store the result: No space left on device$"):
        upscaler.upscale(tmp_path / "a.png", "×2", silent)
    assert list(folder.iterdir()) == []


def test_who_gives_up_leaves_nothing_and_the_next_one_goes_on(upscaler: Upscaler, folder: Path, tmp_path: Path) -> None:
    def give_up(fraction: float, text: str) -> None:
        raise GaveUp

    write_image(tmp_path / "a.png", np.zeros((16, 18, 3), np.uint8))
    with pytest.raises(GaveUp):
        upscaler.upscale(tmp_path / "a.png", "×2", give_up)
    assert list(folder.iterdir()) == []
    upscaler.upscale(tmp_path / "a.png", "×2", silent)


def test_a_small_picture_is_finished_between_the_strips_of_a_large_one(
    upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seemore_jax.inference.runner._BYTES_ON_CPU", 10**6)  # strips of a few rows
    monkeypatch.setattr(module, "_LARGE", 1000)
    write_image(tmp_path / "large.png", RANDOM.integers(0, 256, (200, 100, 3), dtype=np.uint8))
    write_image(tmp_path / "small.png", RANDOM.integers(0, 256, (16, 18, 3), dtype=np.uint8))
    order: list[str] = []
    begun, asked = threading.Event(), threading.Event()

    def upscale_small() -> None:
        def report(fraction: float, text: str) -> None:
            if text:
                assert text == "waiting for 1 picture of other visitors"
                asked.set()

        upscaler.upscale(tmp_path / "small.png", "×2", report)
        order.append("small")

    def report(fraction: float, text: str) -> None:
        if 0 < fraction < 0.5 and not begun.is_set():
            begun.set()
            assert asked.wait(60)  # it waits now, and gets its turn when this returns

    def upscale_large() -> None:
        upscaler.upscale(tmp_path / "large.png", "×2", report)
        order.append("large")

    large = threading.Thread(target=upscale_large, daemon=True)
    large.start()
    assert begun.wait(60)
    upscale_small()
    large.join(60)
    assert order == ["small", "large"]


def test_nobody_else_computes_while_another_thread_reports(
    upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The progress of a picture that is computed at once comes from a thread of its own."""
    passed: list[int] = []
    monkeypatch.setattr("seemore_jax.web.turns.Turn.pass_on", lambda turn: passed.append(threading.get_ident()))

    def upscale_upload(*arguments: object) -> Result:
        progress = arguments[-1]
        assert callable(progress)
        reporting = threading.Thread(target=progress, args=(0.5,))
        reporting.start()
        reporting.join()
        progress(0.6)
        raise GaveUp

    monkeypatch.setattr(module, "upscale_upload", upscale_upload)
    write_image(tmp_path / "a.png", np.zeros((16, 18, 3), np.uint8))
    with pytest.raises(GaveUp):
        upscaler.upscale(tmp_path / "a.png", "×2", silent)
    assert passed == [threading.get_ident()]


def test_only_one_large_picture_is_unfinished(
    upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes gigabytes."""
    monkeypatch.setattr("seemore_jax.inference.runner._BYTES_ON_CPU", 10**6)
    monkeypatch.setattr(module, "_LARGE", 1000)
    events: list[str] = []
    waits = threading.Event()

    def upscale(name: str) -> None:
        def report(fraction: float, text: str) -> None:
            if text:
                waits.set()
            elif fraction:
                events.append(name)
                assert waits.wait(60)

        upscaler.upscale(tmp_path / name, "×2", report)

    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, RANDOM.integers(0, 256, (120, 100, 3), dtype=np.uint8))
    threads = [threading.Thread(target=upscale, args=(name,), daemon=True) for name in ("a.png", "b.png")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(events) > 6
    first = events[0]
    assert events == sorted(events, key=lambda name: name != first)


def test_programs_are_forgotten_after_some_sizes(
    upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared = []
    monkeypatch.setattr("jax.clear_caches", lambda: cleared.append(True))
    for width in range(16, 16 * (module._PROGRAMS + 1), 16):
        write_image(tmp_path / f"{width}.png", np.zeros((16, width), np.uint8))
        upscaler._forget_programs("T-x2", read_header(tmp_path / f"{width}.png"))
        upscaler._forget_programs("T-x2", read_header(tmp_path / f"{width}.png"))
    assert not cleared
    upscaler._forget_programs("T-x4", read_header(tmp_path / "16.png"))
    assert cleared == [True]
    upscaler._forget_programs("T-x4", read_header(tmp_path / "16.png"))
    assert cleared == [True]
