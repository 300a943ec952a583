"""If this test fails, the kernels' C++ accesses memory beyond its arrays, has a data race, or computes wrong values."""

import os
import shutil
import subprocess
from pathlib import Path

import jax
import pytest

_FOLDER = Path(__file__).parent


def missing(folder: Path) -> str:
    """Returns what the tests need and this machine does not have; an empty string if there is nothing."""
    compiler = os.environ.get("CXX", "").split() or ["c++"]
    for program in ("make", compiler[0]):
        if shutil.which(program) is None:
            return f"no {program}"
    source = folder / "nothing.cc"
    source.write_text("int main() {}")
    for sanitizer in ("address,undefined", "thread"):
        command = [*compiler, f"-fsanitize={sanitizer}", str(source), "-o", str(folder / "nothing")]
        if subprocess.run(command, capture_output=True).returncode:
            return f"{compiler[0]} has no runtime for -fsanitize={sanitizer}"
        if subprocess.run([str(folder / "nothing")], capture_output=True).returncode:
            return f"programs do not run here with -fsanitize={sanitizer}"
    return ""


@pytest.mark.thorough
@pytest.mark.needs("compiler")
def test_the_kernels_under_sanitizers(tmp_path: Path) -> None:
    """Runs the same tests as `make test-native`."""
    if reason := missing(tmp_path):
        pytest.skip(reason)
    command = ["make", "-C", str(_FOLDER), "-j2", f"XLA={jax.ffi.include_dir()}", f"BUILD={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
