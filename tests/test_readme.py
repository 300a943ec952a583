"""If these fail, the README or a page of the documentation shows Python or commands that do not work, or promises what
does not hold.
"""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from flax import nnx

import seemore_jax as sj
from seemore_jax.configs import quickstart
from seemore_jax.data import read_image, write_image
from seemore_jax.training.records import read_history

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "docs" / "api").glob("*.md")),
    )
}


def blocks(language: str) -> dict[str, list[str]]:
    """The blocks of code in that language, for each page that has some."""
    found = {page: re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) for page, text in PAGES.items()}
    return {page: of_page for page, of_page in found.items() if of_page}


# With the page and the number in it, as the tests are called; pages may repeat each other.
SNIPPETS = [
    pytest.param(
        snippet,
        id=f"{page}-{number}",
        marks=[pytest.mark.thorough] if page == "docs/research.md" else [],
    )
    for page, snippets in blocks("python").items()
    for number, snippet in enumerate(snippets)
    if page == "README.md" or snippet not in blocks("python")["README.md"]
]
# One line each, without comments; the same command once.
COMMANDS = list(
    dict.fromkeys(
        command
        for of_page in blocks("sh").values()
        for block in of_page
        for line in block.replace("\\\n", "").splitlines()
        if (command := " ".join(re.sub(r"(^|\s)#.*", "", line).split()))
    )
)
QUICKSTART = next(command for command in COMMANDS if "quickstart" in command)
# What only other machines run, or nothing runs to its end, by a part of it.
LEFT_OUT = {
    "make demo": "makes an environment",
    "make test": "runs this",
    "pip install": "changes the environment",
    "uv venv": "needs uv, and makes an environment",
    "seemore_jax web": "runs until it is interrupted: tests/web",
    "prepare df2k": "downloads gigabytes",
    "configs/seemore_t_x2.py": "trains on DF2K",
    "configs/seemore_t_x3.py": "trains on DF2K",
    "configs/seemore_t_x4.py --workdir": "trains on DF2K",
    "configs/pod_": "needs a pod of TPUs",
    "launch/": "needs a cluster: tests/launch",
    "--coordinator": "needs several hosts: tests/command_line/test_upscale_spread.py",
    "--topology": "needs libtpu or the CUDA plugin: make test-tpu-compile, make test-gpu-compile",
    "xpk": "needs a cluster",
    "benchmarks.tpu": "needs libtpu: make test-tpu-compile",
    "benchmarks.compiled_networks": "needs libtpu and the CUDA plugin",
    "benchmarks.gpu_kernels": "needs the CUDA plugin",
    "--placement device": "needs a GPU",
    "benchmarks.on_gpu": "needs a GPU",
}
RUN = [command for command in COMMANDS if command != QUICKSTART and not any(part in command for part in LEFT_OUT)]
# No command takes nearly as long.
SECONDS = 3600


def test_there_are_snippets_and_commands() -> None:
    assert len(SNIPPETS) >= 2
    assert len(RUN) >= 20
    assert all(any(part in command for command in COMMANDS) for part in LEFT_OUT)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sj.save(sj.SeemoRe(sj.SeemoReConfig.variant("T", 2), rngs=nnx.Rngs(0)), "model.pth")
    write_image("photo.png", np.full((20, 16, 3), 90, np.uint8))
    exec(compile(snippet, "<documentation>", "exec"), {})
    assert not Path("photo_large.png").exists() or Path("photo_large.png").stat().st_size > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository as far as commands need it, with the files that the documentation speaks of."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("seemore_jax", "configs", "benchmarks", "tests", "train.py", "eval.py"):
        copy = shutil.copy if (ROOT / name).is_file() else shutil.copytree
        copy(ROOT / name, folder / name)
    photographs = Path(skimage.__file__).parent / "data"
    photograph = read_image(photographs / "coffee.png")
    for name in ("photo.png", "scans/one.tif", "extra.jpg", "Set5/a.png", "Set14/b.png", "my_validation_images/c.png"):
        write_image(folder / name, photograph[:96, :144])
    for name in ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png"):
        for target in ("photos", "my_photographs"):
            write_image((folder / target / name).with_suffix(".png"), read_image(photographs / name))
    for number in range(48):
        write_image(folder / "data" / "train" / "t91" / f"{number}.png", photograph[4 * number :][:192, :192])
    for number in range(4):
        write_image(folder / "data" / "valid" / "kodak" / f"{number}.png", photograph[:192, 64 * number :][:, :192])
    sj.save(sj.load("T-x4"), folder / "model.pth")
    return folder


def run(command: str, folder: Path) -> None:
    """Runs a command of the documentation as it stands there."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": ""}
    with (folder / "printed").open("w+") as printed:  # a pipe would wait for what a command leaves running
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, stdout=printed, stderr=printed, timeout=SECONDS
        )
        printed.seek(0)
        assert done.returncode == 0, printed.read()


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_command_runs(command: str, folder: Path) -> None:
    """One after the other in one folder, as some read what others have written."""
    run(command, folder)


@pytest.mark.slow
def test_the_quickstart_takes_3_minutes_and_ends_1_db_above_bicubic(folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(QUICKSTART, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # What two cores do in 3 minutes: the clock would also count what other programs take.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * 180
    (validated,) = quickstart.get_config().validation
    hr = read_image(Path(validated))
    bicubic = sj.imresize(sj.imresize(hr, 1 / 2), 2)
    history = read_history(folder / "runs" / "quickstart" / "history.jsonl")
    reached = [value for entry in history for name, value in entry.items() if name.startswith("psnr/")]
    assert reached[-1] > sj.metrics.psnr(bicubic, hr, shave=2) + 1
