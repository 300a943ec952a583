"""If these fail, the TPU compiler refuses a program, or a training step sends more than one all-reduce of gradients.

A step of one group is compiled where libtpu is installed. The steps for 8 and 256 chips take minutes each:
`make test-tpu-compile`.
"""

import os
from pathlib import Path
from typing import Any

import jax
import pytest
from flax import nnx

from seemore_jax.ahead_of_time.compilation import compile_traced, kernel_cycles
from seemore_jax.ahead_of_time.program_cost import program_cost
from seemore_jax.ahead_of_time.programs import trace_step
from seemore_jax.ahead_of_time.report import Report, inference_report, step_report
from seemore_jax.ahead_of_time.topologies import Topology, require_libtpu
from seemore_jax.configs.release import recipe
from seemore_jax.network import SeemoRe
from seemore_jax.training.experiment import Experiment

pytestmark = pytest.mark.needs("libtpu")
whole = pytest.mark.skipif("SEEMORE_TPU_COMPILE" not in os.environ, reason="takes minutes: make test-tpu-compile")
BLOCKS = ("embedding", "enhancement", "feed_forward", "mixing")
KERNELS = {f"{block}_{way}" for block in BLOCKS for way in ("forward", "backward")}


@pytest.fixture(autouse=True)
def libtpu() -> None:
    require_libtpu()


def experiment(scale: int, **fields: Any) -> Experiment:
    config = recipe("T", scale)
    config.compute_dtype, config.precision = "bfloat16", "default"
    config.update(fields)
    return Experiment.of(config)


def bytes_to_send(config: Experiment) -> int:
    """Returns the bytes of the gradients, two loss terms, the counts of chosen experts, and the flag to stop."""
    network = config.network
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(SeemoRe.abstract(network))))
    return 4 * (parameters + 2 + network.num_layers * network.num_experts + 1)


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


@whole
@pytest.mark.parametrize("name", ["v5e:2x4", "v5e:16x16", "v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_the_step_of_any_chips_sends_one_all_reduce(name: str) -> None:
    config = experiment(4)
    report = step_report(config, Topology(name), 32, None, kernels=False)
    assert is_the_one_all_reduce(report.collectives, config)
    assert_it_fits(report)


@whole
def test_inference_sends_nothing() -> None:
    report = inference_report(experiment(4), Topology("v5e:1x1"), 180, 320, kernels=False)
    assert report.collectives == ()
    assert_it_fits(report)


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


def assert_it_fits(report: Report) -> None:
    assert 0 < report.occupied < report.hbm_bytes
    assert report.matrix_flops > 10**9
    assert report.hbm_traffic > 10**7
