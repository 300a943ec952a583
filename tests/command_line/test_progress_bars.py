"""If these fail, a long picture has no bar, a pipe is filled with bars, or an interruption leaves half a file."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import seemore_jax as sj
from tests.support.needs import without_kernel_warning
from tests.support.odd_images.encoders import png
from tests.support.release import zeros

ROOT = Path(__file__).parents[2]
CONFIG = sj.SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1)
SECONDS = 120  # after which a test fails instead of hanging

# The command, with a network or an encoder as slow as if the picture were large.
_SLOW_NETWORK = """
import sys, time
from seemore_jax.inference import folder
compute = folder.upscale_images
def slow(*arguments, **options):
    time.sleep(2.5)
    return compute(*arguments, **options)
folder.upscale_images = slow
"""
_SLOW_ENCODER = """
import sys, time
from seemore_jax.data import png_writing
png_writing._BLOCK_BYTES = 200
compress = png_writing._block
def slow(*arguments):
    time.sleep(0.2)
    return compress(*arguments)
png_writing._block = slow
"""
_RUN = "\nfrom seemore_jax.command_line import main\nsys.exit(main())"


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    sj.save(zeros(CONFIG), tmp_path / "tiny.safetensors")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(png(np.zeros((20, 24, 3), np.uint8)))
    return [str(tmp_path / "in" / "x.png"), "-m", str(tmp_path / "tiny.safetensors")]


def in_terminal(program: str, arguments: list[str]) -> str:
    """Runs a program whose standard error is a terminal, and returns what it showed there."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=follower
    )
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert process.wait(SECONDS) == 0
    return shown.decode()


def percentages(shown: str) -> list[int]:
    return [int(part.partition("x.png:")[2].partition("%")[0]) for part in shown.split("\r") if "x.png:" in part]


@pytest.mark.thorough
@pytest.mark.parametrize("program", [_SLOW_NETWORK, _SLOW_ENCODER], ids=["network", "encoder"])
def test_a_picture_that_takes_over_a_second_has_a_bar(program: str, arguments: list[str]) -> None:
    """It is below the size of a strip. The bar moves while it is computed, and while it is written."""
    found = percentages(in_terminal(program + _RUN, arguments))
    assert len(set(found)) >= 3
    assert found == sorted(found)
    assert found[-1] <= 100


@pytest.mark.thorough
def test_without_a_terminal_there_are_no_bars(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SLOW_NETWORK + _RUN, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert without_kernel_warning(done.stderr) == ""
    assert done.stdout.count("\n") == 1


@pytest.mark.thorough
def test_an_interruption_while_a_file_is_written_leaves_no_half_of_it(arguments: list[str], tmp_path: Path) -> None:
    """The process ends at once, although the thread that writes is not done."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_ENCODER.replace("0.2", "30") + _RUN, *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + SECONDS
    while not any(path.name.startswith(".x_x2") for path in (tmp_path / "in").iterdir()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=SECONDS)
    assert time.monotonic() - begin < 20
    assert process.returncode == 130
    assert printed.endswith("interrupted\n")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["x.png"]
