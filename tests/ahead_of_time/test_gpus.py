"""If these fail, `compile` misreads the name of GPUs, or its estimates for them do not follow from their figures."""

import importlib.util
from pathlib import Path

import pytest

from seemore_jax.ahead_of_time import gpu_network
from seemore_jax.ahead_of_time.gpus import GPUS, LAUNCH_SECONDS, GpuTopology
from seemore_jax.ahead_of_time.program_cost import ProgramCost, program_cost
from seemore_jax.ahead_of_time.targets import assumptions, estimate, predict_scaling, target
from seemore_jax.ahead_of_time.topologies import Topology
from seemore_jax.command_line import main
from seemore_jax.system.errors import InputError

CONFIG = str(Path(__file__).parents[2] / "configs" / "seemore_t_x4.py")
PAYLOAD = 900_000


@pytest.mark.parametrize(
    ("name", "gpus_per_host", "hosts"),
    [("h100:8", 8, 1), ("h200:1", 1, 1), ("a100:8x4", 8, 4), ("rtx4090:2x3", 2, 3), ("l4:16", 16, 1)],
)
def test_a_name_has_a_kind_a_count_and_hosts(name: str, gpus_per_host: int, hosts: int) -> None:
    one = target(name)
    assert isinstance(one, GpuTopology)
    assert one.kind == name.partition(":")[0]
    assert (one.gpus_per_host, one.hosts, one.chips) == (gpus_per_host, hosts, gpus_per_host * hosts)


@pytest.mark.parametrize("name", ["h100", "h100:", "h100:0", "h100:8x0", "h100:8x4x2", "h100:-1", "l4:1e3"])
def test_wrong_counts_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"is not known; known are GPU:COUNT.*h100:8x4.*rtx4090"):
        target(name)


def test_slices_of_tpus_are_still_found() -> None:
    assert target("v5e:2x4") == Topology("v5e:2x4")


@pytest.mark.parametrize("kind", sorted(GPUS))
def test_the_compiler_gets_the_gpu_s_figures(kind: str) -> None:
    """A float32 unit computes 2 FLOP in each cycle, and a program can use only a part of the memory."""
    gpu = GPUS[kind]
    assert f"core_count: {gpu.cores}\n" in gpu.description
    assert f"memory_bandwidth: {int(gpu.hbm_bandwidth)}\n" in gpu.description
    assert f"major: {gpu.capability[0]} minor: {gpu.capability[1]}" in gpu.description
    assert gpu.float32_flops == pytest.approx(2 * gpu.cores * gpu.fpus * gpu.clock, rel=0.01)
    assert 0.7 * gpu.memory_bytes < gpu.hbm_bytes < 0.8 * gpu.memory_bytes


def test_without_the_plugin_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["compile", f"--config={CONFIG}", "--topology=h100:8"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert "pip install 'jax[cuda12]==" in printed.err
    assert printed.err.count("\n") == 1


def test_a_step_takes_its_slowest_resource_the_pauses_and_the_network() -> None:
    h100 = GpuTopology("h100:8")
    moved = ProgramCost(hbm_bytes=3_352_000_000, xla_cycles=0, kernels=(), collectives=(), kernel_launches=2000)
    times = estimate(h100, moved, flops=67_000_000_000, cycles=5, network=0.5, dtype="float32")
    assert (times.matrix, times.cycles, times.memory) == pytest.approx((0.001, 0, 0.001))
    assert times.launches == pytest.approx(2000 * LAUNCH_SECONDS)
    assert times.computing == pytest.approx(0.003)
    assert times.step == pytest.approx(0.503)
    assert times.limit == "launches"
    half = estimate(h100, moved, flops=989_000_000_000, cycles=0, network=0, dtype="bfloat16")
    assert half.matrix == pytest.approx(0.001)


def test_an_all_reduce_is_a_ring_in_each_host_and_a_tree_over_hosts() -> None:
    assert gpu_network.all_reduce_seconds(PAYLOAD, GpuTopology("h100:1")) == 0
    inside = 2 * PAYLOAD * 7 / 8 / 450e9 + 14 * gpu_network.LINK_SECONDS
    assert gpu_network.all_reduce_seconds(PAYLOAD, GpuTopology("h100:8")) == pytest.approx(inside)
    between = 2 * (PAYLOAD / 8) * 3 / 4 / 50e9 + 4 * gpu_network.HOST_SECONDS
    assert gpu_network.all_reduce_seconds(PAYLOAD, GpuTopology("h100:8x4")) == pytest.approx(inside + between)


@pytest.mark.parametrize("kind", sorted(GPUS))
def test_scaling_ends_at_4096_gpus_and_efficiency_falls(kind: str) -> None:
    rows = predict_scaling(0.01, PAYLOAD, GpuTopology(f"{kind}:8"))
    assert [row.chips for row in rows] == [8, 256, 4096]
    assert 1 > rows[0].efficiency > rows[-1].efficiency > 0.9


def test_the_assumptions_are_those_of_the_devices_in_the_table() -> None:
    assert "on a GPU" in "\n".join(assumptions(["h100:8"]))
    assert "on a TPU" not in "\n".join(assumptions(["h100:8"]))
    both = "\n".join(assumptions(["h100:8", "v5e:2x4"]))
    assert "on a GPU" in both
    assert "on a TPU" in both


def test_launches_are_counted_and_workspaces_are_no_traffic() -> None:
    """The product reads two arrays and writes one; a parameter, a tuple and its elements are no kernels."""
    text = "\n".join(
        [
            "HloModule jit_f",
            "ENTRY %main (x: f32[64,64]) -> f32[64,64] {",
            "  %x = f32[64,64]{1,0} parameter(0)",
            "  %n = f32[64,64]{1,0} negate(%x)",
            '  %p = (f32[64,64]{1,0}, s8[33554432]{0}) custom-call(%n, %x), custom_call_target="__cublas$gemm"',
            "  ROOT %y = f32[64,64]{1,0} get-tuple-element(%p), index=0",
            "}",
        ]
    )
    found = program_cost(text)
    assert found.kernel_launches == 2
    assert found.hbm_bytes == 5 * 64 * 64 * 4
