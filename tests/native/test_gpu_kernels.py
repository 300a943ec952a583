"""If this test fails, a kernel for GPUs accesses memory beyond its arrays, or has a race between two of its threads.

The kernels run on a CPU. What each thread reads and writes in shared memory between two barriers is recorded.
"""

import subprocess
from pathlib import Path

import pytest

from seemore_jax.network.implementations.simt import host
from seemore_jax.network.implementations.simt.variants import Variant
from tests.native.test_native_code import missing

_FOLDER = Path(__file__).parent
_SANITIZERS = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.needs("compiler")
@pytest.mark.parametrize(
    "variant",
    [
        Variant("embedding", 36, "bfloat16"),
        Variant("routing", 36, "bfloat16", 1, 3),
        Variant("routing", 7, "float32", 0, 4),
        Variant("experts", 7, "float32", 11, 3, 2),
        Variant("feed_forward", 36, "float32"),
        Variant("enhancement", 7, "float32", 11),
        pytest.param(Variant("feed_forward", 72, "bfloat16"), marks=pytest.mark.thorough),
        pytest.param(Variant("enhancement", 20, "bfloat16", 35), marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_a_kernel_under_sanitizers_and_with_recorded_accesses(variant: Variant, tmp_path: Path) -> None:
    if reason := missing(tmp_path):
        pytest.skip(reason)
    program = str(tmp_path / "program")
    flags = [flag for flag in host.FLAGS if flag != "-O2"]
    name = f'-DSEEMORE_NAME="{variant.name}"'
    command = [*host.command(variant), *flags, *_SANITIZERS, name, "-I", str(_FOLDER)]
    source = str(_FOLDER / "test_gpu_kernels.cc")
    compiled = subprocess.run([*command, source, "-o", program], capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr[-4000:]
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "0 failures" in done.stdout
