"""If these fail, `--help` takes seconds, because it imports what only the work needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from seemore_jax.command_line import _COMMANDS

ROOT = Path(__file__).parents[2]
COMMANDS = [command.__name__.rpartition(".")[2] for command in _COMMANDS]
# A test of the time itself would fail on a busy machine.
SLOW = {
    *("jax", "jaxlib", "flax", "numpy", "scipy", "PIL", "tifffile", "imagecodecs", "pillow_heif", "matplotlib"),
    *("tensorflow_datasets", "grain", "orbax", "optax", "etils", "absl", "gradio", "safetensors", "tqdm", "jaxtyping"),
}


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_imports_nothing_that_is_slow(command: list[str]) -> None:
    program = "import sys; from seemore_jax.command_line import main\ntry: main()\nfinally: print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "usage: " in done.stdout
    assert SLOW & set(done.stdout.splitlines()[-1].split()) == set()


def test_the_package_gives_its_names_when_they_are_used() -> None:
    program = """
import sys
import seemore_jax as sj
assert "jax" not in sys.modules
for name in sj.__all__:
    getattr(sj, name)
assert sj.metrics.__name__ == "seemore_jax.evaluation.metrics"
assert "jax" in sys.modules
try:
    sj.no_such_name
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "module 'seemore_jax' has no attribute 'no_such_name'\n"
