"""If these fail, XLA refuses a program for NVIDIA GPUs, or a step sends more than one all-reduce.

A step of one group is compiled where JAX's CUDA plugin is installed. Whole networks take minutes:
`make test-gpu-compile`.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seemore_jax.ahead_of_time.compilation import compile_traced
from seemore_jax.ahead_of_time.gpus import GpuTopology, compiler_options, require_cuda_plugin
from seemore_jax.ahead_of_time.program_cost import program_cost
from seemore_jax.ahead_of_time.programs import trace_step
from seemore_jax.ahead_of_time.report import inference_report, step_report
from seemore_jax.exporting.load_stablehlo import load_stablehlo
from seemore_jax.exporting.stablehlo import to_stablehlo
from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.training.experiment import Experiment
from tests.support.steps_ahead import assert_it_fits, bytes_to_send, experiment

pytestmark = pytest.mark.needs("cuda")
whole = pytest.mark.skipif("SEEMORE_GPU_COMPILE" not in os.environ, reason="takes minutes: make test-gpu-compile")
SMALL = {"num_layers": 1, "embedding_dim": 12}


@pytest.fixture(autouse=True)
def plugin() -> None:
    require_cuda_plugin()


def is_the_one_all_reduce(collectives: Any, config: Experiment) -> bool:
    (one,) = collectives
    return one.kind == "all-reduce" and one.times == 1 and one.bytes == bytes_to_send(config)


def test_a_step_of_one_group_compiles_and_sends_one_all_reduce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = experiment(2, patch_size=16, architecture=SMALL)
    topology = GpuTopology("h100:2x2")
    compiled = compile_traced(trace_step(config, topology.devices(), 4), topology)
    cost = program_cost(compiled.hlo)
    assert is_the_one_all_reduce(cost.collectives, config)
    assert cost.kernel_launches > 100
    assert compile_traced(trace_step(config, topology.devices(), 4), topology) == compiled  # read from the cache


@whole
@pytest.mark.parametrize("name", ["b200:8", "h100:8", "h200:8", "a100:8x4", "a10:1", "l4:1", "rtx4090:1"])
def test_the_step_of_any_gpus_compiles(name: str) -> None:
    config = experiment(4)
    report = step_report(config, GpuTopology(name), 8, None, kernels=True)
    if report.chips > 1:
        assert is_the_one_all_reduce(report.collectives, config)
    assert_it_fits(report)


@whole
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_inference_compiles_and_sends_nothing(dtype: str) -> None:
    report = inference_report(experiment(4, compute_dtype=dtype), GpuTopology("h100:1"), 480, 640, kernels=True)
    assert report.collectives == ()
    assert_it_fits(report)


@whole
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_kernels_need_few_launches_and_little_traffic(dtype: str) -> None:
    """Those of docs/performance.md: 60 launches, and 3 GB in bfloat16."""
    config = experiment(4, compute_dtype=dtype, implementation="gpu")
    report = inference_report(config, GpuTopology("h100:1"), 480, 640, kernels=True)
    assert report.kernel_launches is not None
    assert report.kernel_launches <= 60
    assert report.hbm_traffic <= (3e9 if dtype == "bfloat16" else 6e9)


@whole
@pytest.mark.usefixtures("unchecked")  # a program for any size has symbolic sizes
@pytest.mark.parametrize(("height", "width"), [(48, 64), (97, 131), (480, 640)])
def test_an_exported_file_compiles_for_a_gpu(height: int, width: int, tmp_path: Path) -> None:
    """Compiles from the file alone, whose program knows neither the sizes nor the device."""
    file = tmp_path / "network.stablehlo"
    file.write_bytes(to_stablehlo(SeemoRe(SeemoReConfig.variant("T", 4), rngs=nnx.Rngs(0))))
    sharding = jax.sharding.SingleDeviceSharding(GpuTopology("h100:1").devices()[0])
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32, sharding=sharding)
    traced = jax.jit(load_stablehlo(file)).trace(image)
    compiled = traced.lower(lowering_platforms=("cuda",)).compile(
        compiler_options=compiler_options(fused_products=False)
    )
    (output,) = jax.tree.leaves(compiled.out_info)
    assert output.shape == (1, 4 * height, 4 * width, 3)
    assert program_cost(compiled.as_text()).kernel_launches > 100
