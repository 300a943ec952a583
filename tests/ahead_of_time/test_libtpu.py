"""If these fail, the TPU compiler refuses a program, or a training step sends more than one all-reduce of gradients.

A step of one group is compiled where libtpu is installed. The commands of the documentation, and the steps for every
kind of chip, take minutes each: `make test-tpu-compile`.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seemore_jax.ahead_of_time.compilation import compile_traced, kernel_cycles, no_compilation_cache
from seemore_jax.ahead_of_time.matrix_flops import equations
from seemore_jax.ahead_of_time.program_cost import program_cost
from seemore_jax.ahead_of_time.programs import trace_step
from seemore_jax.ahead_of_time.report import inference_report, step_report
from seemore_jax.ahead_of_time.topologies import Topology, require_libtpu
from seemore_jax.exporting.load_stablehlo import load_stablehlo
from seemore_jax.exporting.stablehlo import to_stablehlo
from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.training.experiment import Experiment
from tests.support.steps_ahead import assert_it_fits, bytes_to_send, experiment

pytestmark = pytest.mark.needs("libtpu")
whole = pytest.mark.skipif("SEEMORE_TPU_COMPILE" not in os.environ, reason="takes minutes: make test-tpu-compile")
ROOT = Path(__file__).parents[2]
# As README.md and docs/ write them, without comments.
COMMANDS = sorted(
    {
        line.partition(" #")[0].strip()
        for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for line in page.read_text().splitlines()
        if re.match(r"python -m seemore_jax compile .*--topology=(v\d|tpu)", line)
    }
)
# A part of the table of `benchmarks.compiled_networks`: each variant, scale, type and kind of chip is in it.
STEPS = [
    ("T", 4, "bfloat16", "v4:2x2x1", 96),
    ("B", 3, "float32", "v5p:2x2x1", 64),
    ("L", 2, "bfloat16", "v6e:2x2", 128),
    ("B", 2, "bfloat16", "tpu7x:2x2x1", 48),
    ("L", 4, "float32", "v5e:2x4", 64),
]
# Networks by width: L is as wide as B.
ON_CHIPS = [
    ("T", "float32", "v4:2x2x1", 64),
    ("B", "float32", "v4:2x2x1", 64),
    ("T", "bfloat16", "v4:2x2x1", 96),
    ("B", "bfloat16", "v5e:2x2", 64),
    ("B", "float32", "v5e:2x2", 64),
    ("B", "float32", "tpu7x:2x2x1", 64),
]
BLOCKS = ("embedding", "enhancement", "feed_forward", "mixing", "reconstruction")
KERNELS = {f"{block}_{way}" for block in BLOCKS for way in ("forward", "backward")}


@pytest.fixture(autouse=True)
def libtpu() -> None:
    require_libtpu()


def is_the_one_all_reduce(collectives: Any, config: Experiment) -> bool:
    """Returns whether the step sends only this. The vector is padded to tiles of 1024 numbers."""
    (one,) = collectives
    return one.kind == "all-reduce" and one.times == 1 and 0 <= one.bytes - bytes_to_send(config) < 4 * 1024


def test_a_step_of_one_group_compiles_with_its_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = experiment(2, patch_size=16, architecture={"num_layers": 1, "embedding_dim": 12})
    topology = Topology("v5e:2x2")
    traced = trace_step(config, topology.devices(), 4)
    compiled = compile_traced(traced, topology)
    cost = program_cost(compiled.hlo)
    assert {call.name for call in cost.kernels} == KERNELS
    assert is_the_one_all_reduce(cost.collectives, config)
    assert compile_traced(trace_step(config, topology.devices(), 4), topology) == compiled  # read from the cache


def test_the_documentation_has_commands_to_compile() -> None:
    assert len(COMMANDS) >= 3
    assert any(re.search(r"--config=configs/seemore_t_x4.py --topology=v5e:16x16$", command) for command in COMMANDS)


@whole
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documentation_runs(command: str, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| fits | yes |" in done.stdout
    assert ("| collectives | none |" if "--inference" in command else "| collectives | 1 all-reduce of ") in done.stdout


@whole
@pytest.mark.parametrize(("variant", "scale", "dtype", "name", "patch"), STEPS)
def test_the_step_of_any_chips_sends_one_all_reduce(
    variant: str, scale: int, dtype: str, name: str, patch: int
) -> None:
    config = experiment(scale, variant, dtype, patch_size=patch)
    report = step_report(config, Topology(name), 4, None, kernels=False)
    assert is_the_one_all_reduce(report.collectives, config)
    assert_it_fits(report)


@whole
@pytest.mark.parametrize(("variant", "dtype", "name", "patch"), ON_CHIPS)
def test_each_kernel_compiles_in_the_vmem_that_it_asks_for(variant: str, dtype: str, name: str, patch: int) -> None:
    topology = Topology(name)
    devices = topology.devices()
    traced = trace_step(experiment(4, variant, dtype, patch_size=patch), devices, 2 * len(devices)).jaxpr.jaxpr
    kernels = {str(one.params["name"]) for one in equations(traced, "pallas_call") if not one.params["interpret"]}
    assert {"feed_forward_forward", "feed_forward_backward"} <= kernels  # on v4, XLA takes blocks that do not fit
    # libtpu compiles the kernels for v4, v5p and TPU7x, too, but cannot analyse them.
    analysed = topology.kind in ("v5e", "v6e")
    assert kernel_cycles(traced, topology).keys() == (kernels if analysed else set())


@whole
def test_inference_sends_nothing() -> None:
    report = inference_report(experiment(4), Topology("v5e:1x1"), 180, 320, kernels=False)
    assert report.collectives == ()
    assert_it_fits(report)


@whole
@pytest.mark.usefixtures("unchecked")  # a program for any size has symbolic sizes
@pytest.mark.parametrize(("height", "width"), [(48, 64), (97, 131), (480, 640)])
def test_an_exported_file_compiles_for_a_tpu(height: int, width: int, tmp_path: Path) -> None:
    """Compiles from the file alone, whose program knows neither the sizes nor the device."""
    file = tmp_path / "network.stablehlo"
    file.write_bytes(to_stablehlo(SeemoRe(SeemoReConfig.variant("T", 4), rngs=nnx.Rngs(0))))
    sharding = jax.sharding.SingleDeviceSharding(Topology("v5e:1x1").devices()[0])
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32, sharding=sharding)
    lowered = jax.jit(load_stablehlo(file)).trace(image).lower(lowering_platforms=("tpu",))
    with no_compilation_cache():  # JAX could not read the entry
        compiled = lowered.compile()
    (output,) = jax.tree.leaves(compiled.out_info)
    assert output.shape == (1, 4 * height, 4 * width, 3)


@whole
def test_kernels_are_analysed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = experiment(2, patch_size=16, architecture={"num_layers": 1, "embedding_dim": 12})
    topology = Topology("v5e:2x2")
    jaxpr = trace_step(config, topology.devices(), 4).jaxpr.jaxpr
    cycles = kernel_cycles(jaxpr, topology)
    assert cycles.keys() == KERNELS
    assert all(count > 100 for count in cycles.values())
    monkeypatch.setattr("subprocess.run", None)
    assert kernel_cycles(jaxpr, topology) == cycles
