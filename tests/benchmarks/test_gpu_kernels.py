"""If these tests fail, a kernel for GPUs does not compile for one of them or spills, or the benchmark miscounts."""

import pytest

from benchmarks import gpu_kernels
from seemore_jax.ahead_of_time.program_cost import program_cost
from seemore_jax.network.implementations.simt import device
from seemore_jax.network.implementations.simt.variants import Variant

_HLO = """HloModule jit_f

%computation (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %negate = f32[2]{0} negate(%p)
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %fusion = f32[2]{0} fusion(%x), kind=kLoop, calls=%computation
  %bitcast = f32[1,2]{1,0} bitcast(%fusion)
  ROOT %call = f32[2]{0} custom-call(%bitcast), custom_call_target="__cublas$gemm"
}
"""


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_100"])
def test_no_kernel_spills(architecture: str) -> None:
    if missing := gpu_kernels.missing_tools():
        pytest.skip(missing)
    for variant in gpu_kernels.network_variants():
        (found,) = gpu_kernels.compiled(variant, (architecture,))
        assert found.registers > 0
        assert found.spilled_bytes == 0, found


def test_launches_are_counted() -> None:
    assert program_cost(_HLO).kernel_launches == 2


@pytest.mark.parametrize("name", ["embedding", "routing", "experts", "feed_forward", "enhancement"])
def test_the_source_for_a_gpu_has_a_parameter_for_each_array(name: str) -> None:
    """On a GPU, the kernel's launch passes one address for each parameter."""
    arrays = {"embedding": 19, "routing": 13, "experts": 19, "feed_forward": 12, "enhancement": 14}[name]
    source = device.source(Variant(name, 36, "bfloat16", 3, num_experts=3, topk=1))
    assert source.count("void* a") == arrays
    assert f"#define SEEMORE_KERNEL {name}" in source
