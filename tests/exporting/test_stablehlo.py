"""If these fail, a .stablehlo file computes other results than the model, or does not load without this package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.export
import numpy as np
import pytest

from seemore_jax.exporting import export, load_stablehlo
from seemore_jax.network import SeemoReConfig
from tests.exporting.networks import CONFIGS, INPUTS, TOLERANCE, by_release
from tests.support.release import ROUTED_IMAGES, ported, release_model, zeros

pytestmark = pytest.mark.usefixtures("unchecked")  # a program for any size has symbolic sizes

SMALL = SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1)

# The loader lies beside the file, as a user would copy it; what it must not need cannot be imported.
_USER = """
import sys
sys.modules.update(dict.fromkeys(("flax", "seemore_jax", "jaxtyping"), None))
import numpy as np
from load_stablehlo import load_stablehlo
network = load_stablehlo("network.stablehlo")
np.savez("sr.npz", **{name: network(lr) for name, lr in np.load("lr.npz").items()})
"""


@pytest.mark.thorough
def test_every_image_and_size_without_this_package(tmp_path: Path) -> None:
    release = release_model(CONFIGS["T"])
    export(ported(release, CONFIGS["T"]), tmp_path / "network.stablehlo")
    shutil.copy(load_stablehlo.__file__, tmp_path)
    (tmp_path / "user.py").write_text(_USER)
    np.savez(tmp_path / "lr.npz", *INPUTS)
    subprocess.run(
        [sys.executable, "user.py"], cwd=tmp_path, env=os.environ | {"JAX_PLATFORMS": "cpu"}, check=True, timeout=500
    )
    for lr, sr in zip(INPUTS, np.load(tmp_path / "sr.npz").values(), strict=True):
        np.testing.assert_allclose(sr, by_release(release, CONFIGS["T"], lr), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["B", "L", "none of them"])
def test_every_kind_of_network(name: str, tmp_path: Path) -> None:
    release = release_model(CONFIGS[name])
    export(ported(release, CONFIGS[name]), tmp_path / "network.stablehlo")
    network = load_stablehlo.load_stablehlo(tmp_path / "network.stablehlo")
    for lr in (INPUTS[0], ROUTED_IMAGES):
        np.testing.assert_allclose(network(lr), by_release(release, CONFIGS[name], lr), rtol=0, atol=TOLERANCE)


def test_one_file_is_for_every_platform_and_tells_no_paths(tmp_path: Path) -> None:
    model = zeros(SMALL)
    export(model, tmp_path / "network.stablehlo")
    content = (tmp_path / "network.stablehlo").read_bytes()
    assert b".py" not in content
    exported = jax.export.deserialize(bytearray(content))  # JAX itself ignores the checksum at the end
    assert exported.platforms == ("cpu", "cuda", "tpu")
    program = exported.mlir_module()
    assert f"feature_group_count = {SMALL.embedding_dim} " in program  # a depthwise convolution, on GPU and TPU
    assert "seemore_" not in program  # no native kernels of the CPU
    assert model.config == SMALL  # unchanged


def test_damaged_files_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "network.stablehlo"
    export(zeros(SMALL), path)
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    for damaged in (b"", b"text", content[:-1], content[:1000], bytes(changed), content + b" "):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"network\.stablehlo: damaged, or not a file of seemore_jax export"):
            load_stablehlo.load_stablehlo(path)
    path.write_bytes(load_stablehlo.add_checksum(b"of another version"))
    with pytest.raises(ValueError, match=f"JAX {jax.__version__} cannot read it"):
        load_stablehlo.load_stablehlo(path)
