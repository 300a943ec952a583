"""If these fail, a folder on several devices or hosts has other results, or files are missing or made twice."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import seemore_jax as sj
from seemore_jax.data import write_image
from tests.support.needs import without_kernel_warning
from tests.support.release import ported, release_model
from tests.support.training_runs import Process, expect, finish, free_address, run_together

CONFIG = sj.SeemoReConfig.variant("T", 2)
SIZES = {
    "a": (24, 20),
    "b": (24, 20),
    "c": (24, 20),
    "d": (24, 20),
    "e": (24, 20),
    "deep/f": (20, 24),
    "deep/g": (9, 9),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of images, a damaged one and one that is made already, with weights beside it."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        write_image(folder / "photos" / f"{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    (folder / "photos" / "damaged.png").write_bytes(b"\x89PNG\r\n")
    sj.save(ported(release_model(CONFIG), CONFIG), folder / "w.safetensors")
    return folder / "photos"


def upscale(photos: Path, output: Path, *, processes: int, devices: int) -> list[tuple[int, str]]:
    """Exit statuses and outputs of `upscale` as that many processes of that many devices each."""
    command = [sys.executable, "-m", "seemore_jax", str(photos), "-o", str(output)]
    command += ["-m", str(photos.parent / "w.safetensors"), f"--json={output}.json"]
    return run_together(command, processes=processes, devices=devices)


@pytest.mark.thorough
def test_the_same_files_on_several_processes_and_devices(photos: Path, tmp_path: Path) -> None:
    contents, lists = [], []
    for processes, devices in ((1, 1), (1, 4), (2, 2)):
        output = tmp_path / f"{processes}x{devices}"
        (output / "deep").mkdir(parents=True)
        (output / "deep" / "g_x2.png").touch()  # made already
        ended = upscale(photos, output, processes=processes, devices=devices)
        expect(ended, 1)  # on all processes, because one file is damaged
        assert "6 made, 1 skipped, 1 failed" in ended[0][1]
        assert ended[0][1].count("error: ") == 1
        assert all(not without_kernel_warning(text).strip() for _, text in ended[1:])  # process 0 speaks for all
        contents.append({path.relative_to(output): path.read_bytes() for path in output.rglob("*.png")})
        outcomes = json.loads(Path(f"{output}.json").read_text())
        lists.append(sorted((Path(outcome["input"]).name, outcome["status"]) for outcome in outcomes))
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]) == len(SIZES)
    assert lists[0] == lists[1] == lists[2]


@pytest.mark.thorough
def test_processes_that_see_different_files_say_so(photos: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "other" / "x.png", np.zeros((8, 8, 3), np.uint8))
    address = free_address()
    command = [sys.executable, "-m", "seemore_jax"]
    running = [
        Process(
            [
                *command,
                str(folder),
                *("-o", str(tmp_path / "out"), "-m", str(photos.parent / "w.safetensors")),
                *(f"--coordinator={address}", "--num_processes=2", f"--process_id={index}"),
            ]
        )
        for index, folder in enumerate((photos, tmp_path / "other"))
    ]
    ended = finish(*running)
    assert [status for status, _ in ended] == [2, 2]
    assert "process 1 finds other files than process 0" in ended[1][1]
