"""If these fail, the costs that are computed from the text of compiled programs are wrong."""

import pytest

from seemore_jax.ahead_of_time.hlo import parse_shape
from seemore_jax.ahead_of_time.program_cost import Collective, program_cost

_KERNEL = 'kernel, custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/gate/pallas_call"}'


def _module(*lines: str, others: str = "") -> str:
    return "\n".join(["HloModule jit_f", others, "ENTRY %main (x: f32[8,128]) -> f32[8,128] {", *lines, "}"])


@pytest.mark.parametrize(
    ("shape", "size", "in_hbm"),
    [
        ("f32[8,128]{1,0:T(8,128)}", 4096, 4096),
        ("bf16[32,36,4096]{2,1,0:T(8,128)(2,1)}", 32 * 40 * 4096 * 2, 32 * 40 * 4096 * 2),
        ("bf16[32,64,64,36]{2,1,3,0:T(8,128)(2,1)}", 32 * 36 * 64 * 128 * 2, 32 * 36 * 64 * 128 * 2),
        ("f32[36]{0:T(128)S(1)}", 512, 0),
        ("pred[]", 1, 1),
        ("(f32[4]{0}, s32[2,2]{1,0})", 32, 32),
    ],
)
def test_sizes_have_the_padding_of_tiles_and_know_their_memory(shape: str, size: int, in_hbm: int) -> None:
    arrays = parse_shape(shape)
    assert sum(array.bytes for array in arrays) == size
    assert sum(array.hbm_bytes for array in arrays) == in_hbm


def test_an_instruction_reads_its_operands_and_writes_its_result() -> None:
    cost = program_cost(
        _module(
            "  %x = f32[8,128]{1,0:T(8,128)} parameter(0)",
            '  %y = f32[8,128]{1,0:T(8,128)S(1)} negate(%x), backend_config={"estimated_cycles":"100"}',
            '  ROOT %z = f32[8,128]{1,0:T(8,128)} add(%x, %y), backend_config={"estimated_cycles":"20"}',
        )
    )
    assert (cost.hbm_bytes, cost.xla_cycles) == (4096 + 2 * 4096, 120)


# The compiler notes how often a loop runs, or only the condition of the loop shows it.
_NOTED = ', backend_config={"known_trip_count":{"n":"6"}}'
_CONDITION = """%condition (s: (s32[], f32[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(6), metadata={op_name="f"}
  %s = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %again = pred[]{:T(512)} compare(%i, %limit), direction=LT
}"""


@pytest.mark.parametrize(("noted", "condition", "times"), [(_NOTED, "", 6), ("", _CONDITION, 6), ("", "", 1)])
def test_a_loop_counts_as_often_as_it_runs(noted: str, condition: str, times: int) -> None:
    body = "\n".join(
        [
            "%body (s: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {",
            "  %s = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)",
            "  %v = f32[8,128]{1,0:T(8,128)} get-tuple-element(%s), index=1",
            '  %w = f32[8,128]{1,0:T(8,128)} negate(%v), backend_config={"estimated_cycles":"7"}',
            "  ROOT %t = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%s, %w)",
            "}",
        ]
    )
    cost = program_cost(
        _module(
            "  %x = f32[8,128]{1,0:T(8,128)} parameter(0)",
            f"  %l = (s32[], f32[8,128]{{1,0:T(8,128)}}) while(%x), condition=%condition, body=%body{noted}",
            "  ROOT %y = f32[8,128]{1,0:T(8,128)} get-tuple-element(%l), index=1",
            others=f"{condition}\n{body}",
        )
    )
    assert (cost.hbm_bytes, cost.xla_cycles) == (times * 2 * 4096, times * 7)


def test_a_kernel_that_is_fused_with_what_follows_is_one() -> None:
    fused = "\n".join(
        [
            "%fused (a: f32[8,128]) -> f32[8,128] {",
            "  %a = f32[8,128]{1,0:T(8,128)} parameter(0)",
            f"  %k = f32[8,128]{{1,0:T(8,128)}} custom-call(%a), {_KERNEL}",
            "  ROOT %b = f32[8,128]{1,0:T(8,128)} bitcast(%k)",
            "}",
        ]
    )
    cost = program_cost(
        _module(
            "  %x = f32[8,128]{1,0:T(8,128)} parameter(0)",
            "  ROOT %z = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kCustom, calls=%fused",
            others=fused,
        )
    )
    assert [(kernel.name, kernel.hbm_bytes, kernel.times) for kernel in cost.kernels] == [("gate", 2 * 4096, 1)]


def test_of_a_sliced_operand_the_slices_count_and_of_an_update_in_place_the_update() -> None:
    fused = "\n".join(
        [
            "%fused (a: f32[64,128], b: f32[64,128]) -> f32[64,128] {",
            "  %a = f32[64,128]{1,0:T(8,128)} parameter(0)",
            "  %b = f32[64,128]{1,0:T(8,128)} parameter(1)",
            "  %part = f32[8,128]{1,0:T(8,128)} slice(%a), slice={[0:8], [0:128]}",
            "  ROOT %u = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%b, %part)",
            "}",
        ]
    )
    cost = program_cost(
        _module(
            "  %x = f32[64,128]{1,0:T(8,128)} parameter(0)",
            "  %y = f32[64,128]{1,0:T(8,128)} parameter(1)",
            "  ROOT %z = f32[64,128]{1,0:T(8,128)} fusion(%x, %y), kind=kLoop, calls=%fused",
            others=fused,
        )
    )
    assert cost.hbm_bytes == 2 * 4096


def test_kernels_and_collectives_are_listed() -> None:
    cost = program_cost(
        _module(
            "  %x = f32[8,128]{1,0:T(8,128)} parameter(0)",
            f"  %k = f32[8,128]{{1,0:T(8,128)}} custom-call(%x), {_KERNEL}",
            "  ROOT %r = f32[8,128]{1,0:T(8,128)} all-reduce(%k), to_apply=%add",
        )
    )
    (kernel,), (collective,) = cost.kernels, cost.collectives
    assert (kernel.name, kernel.hbm_bytes, kernel.times) == ("gate", 8192, 1)
    assert (collective.kind, collective.bytes, collective.times) == ("all-reduce", 4096, 1)


@pytest.mark.parametrize("space", ["", "S(1)", "S(3)"])
def test_what_is_sent_counts_wherever_it_lies(space: str) -> None:
    array = f"f32[8,128]{{1,0:T(8,128){space}}}"
    cost = program_cost(
        _module(
            f"  %x = {array} parameter(0)",
            f"  %s = ({array}, {array}, u32[]{{:S(2)}}) all-reduce-start(%x), to_apply=%add",
            f"  ROOT %r = {array} all-reduce-done(%s)",
        )
    )
    assert [(one.kind, one.bytes, one.times) for one in cost.collectives] == [("all-reduce", 4096, 1)]


def test_an_all_reduce_on_other_cores_is_listed() -> None:
    """Otherwise, the step of a TPU7x, whose SparseCores reduce the gradients, seems to send nothing."""
    others = "\n".join(
        [
            "%called (p: f32[512]) -> f32[512] {",
            "  %p = f32[512]{0:T(512)} parameter(0)",
            "  ROOT %r = f32[512]{0:T(512)} all-reduce(%p), to_apply=%sum",
            '}, execution_thread="sparsecore"',
        ]
    )
    cost = program_cost(
        _module(
            "  %x = f32[512]{0:T(512)} parameter(0)",
            "  %s = ((f32[512]{0:T(512)}, token[]), f32[512]{0:T(512)}) call-start(%x), "
            'async_execution_thread="sparsecore", to_apply=%called',
            "  ROOT %d = f32[512]{0:T(512)} call-done(%s)",
            others=others,
        )
    )
    assert cost.collectives == (Collective("all-reduce", 2048, 1),)
    assert cost.hbm_bytes == 2 * 2048


def test_a_text_that_is_no_module_is_refused() -> None:
    with pytest.raises(ValueError, match="entry computation"):
        program_cost("HloModule nothing")
