"""Computes what a compiled program costs, from its optimised HLO text: memory traffic, cycles and collectives.

XLA's own `cost_analysis()["bytes accessed"]` also counts operands that stay in VMEM, counts the body of a loop once,
and leaves custom calls out. This module visits each instruction as often as it runs. All figures come from the output
of the compiler; none is measured on a device.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from seemore_jax.ahead_of_time.hlo import ArrayShape, Computations, Instruction, parse_module

_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Instructions that move no data: they name or group arrays, or wait for other instructions.
_FREE = frozenset(
    (
        *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "after-all"),
        *("partition-id", "replica-id", "copy-done", "slice-done", "async-done", "async-update", "call-done"),
        *(f"{kind}-done" for kind in _COLLECTIVES),
    )
)
# Instructions that read only a part of their first operand.
_SLICES = frozenset(("slice", "dynamic-slice", "gather"))


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective is one operation that communicates between devices, such as an all-reduce.

    Attributes:
      kind: the operation, such as "all-reduce".
      bytes: the size of the result on each device.
      times: how often the operation runs in one run of the program.
    """

    kind: str
    bytes: int
    times: int


@dataclasses.dataclass(frozen=True)
class KernelCall:
    """A call of a Pallas kernel.

    Attributes:
      name: the `name` that was given to `pallas_call`.
      instruction: the name of the HLO instruction that runs the kernel.
      hbm_bytes: what one call reads from and writes to HBM, in bytes.
      times: how often the call runs in one run of the program.
    """

    name: str
    instruction: str
    hbm_bytes: int
    times: int


@dataclasses.dataclass(frozen=True)
class ProgramCost:
    """The cost of one run of a program on each device.

    Attributes:
      hbm_bytes: the bytes that instructions read from and write to HBM, including the padding of layouts.
      xla_cycles: the sum of XLA's `estimated_cycles`, which does not include Pallas kernels.
      kernels: the calls of Pallas kernels. `hbm_bytes` includes what they read and write.
      collectives: the communication between devices.
      kernel_launches: how many instructions run by themselves; on a GPU, each of them starts at least one kernel.
    """

    hbm_bytes: int
    xla_cycles: int
    kernels: tuple[KernelCall, ...]
    collectives: tuple[Collective, ...]
    kernel_launches: int


def program_cost(hlo_text: str) -> ProgramCost:
    """Computes the cost of a program.

    Each instruction that runs by itself reads its operands from HBM and writes its results to HBM once. There are three
    exceptions: if an instruction only slices an operand, the slices count; if it updates an operand in place, the
    update counts; and arrays outside HBM do not count. A kernel is assumed to read and write each of its arrays once.

    Args:
      hlo_text: the optimised program, as `compiled.as_text()` returns it.

    Returns:
      The cost on each device.

    Raises:
      ValueError: the text is not an HLO module with an entry computation.
    """
    computations, entry = parse_module(hlo_text)
    hbm_bytes, cycles, launches = 0, 0, 0
    kernels, collectives = [], []
    for times, computation, instruction in _executed(computations, entry, 1):
        traffic = _traffic(instruction, computation, computations)
        hbm_bytes += times * traffic
        cycles += times * instruction.estimated_cycles
        launches += times * (instruction.opcode not in _FREE)
        kind = instruction.opcode.removesuffix("-start")
        if kind in _COLLECTIVES:
            collectives.append(Collective(kind, _payload(instruction), times))
        for kernel in _kernels(instruction, computations):
            kernels.append(KernelCall(_kernel_name(kernel), instruction.name, traffic, times))
    return ProgramCost(hbm_bytes, cycles, tuple(kernels), tuple(collectives), launches)


def memory_bytes(compiled: Any) -> dict[str, int]:
    """Returns the memory that a compiled program needs on each device.

    Args:
      compiled: a `jax.stages.Compiled`.

    Returns:
      Bytes under the keys "arguments", "results", "aliased" (results that are stored in the memory of an argument),
      "temporaries" and "code".
    """
    stats = compiled.memory_analysis()
    return {
        "arguments": stats.argument_size_in_bytes,
        "results": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }


def _executed(
    computations: Computations, name: str, times: int
) -> Iterator[tuple[int, Mapping[str, Instruction], Instruction]]:
    """Yields each instruction that runs by itself: how often it runs, its computation, and the instruction.

    All branches of a conditional count, so the result is an upper bound.
    """
    computation = computations[name]
    for instruction in computation.values():
        if instruction.opcode == "while":
            yield from _executed(
                computations, instruction.called("body"), times * _trip_count(instruction, computations)
            )
        elif instruction.opcode in ("call", "call-start"):  # TPU7x starts the all-reduce on other cores
            yield from _executed(computations, instruction.called("to_apply"), times)
        elif instruction.opcode == "conditional":
            for branch in instruction.branches:
                yield from _executed(computations, branch, times)
        else:
            yield times, computation, instruction


def _trip_count(loop: Instruction, computations: Computations) -> int:
    """Returns how often the body of a while loop runs, or 1 if the text does not show it.

    Without a note of the compiler, the loop is assumed to come from `lax.scan` if its condition compares a counter with
    a constant. Such a counter begins at 0.
    """
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if found:
        return int(found[1])
    condition = computations.get(loop.called("condition"), {})
    for test in condition.values():
        if test.is_root and test.opcode == "compare" and "direction=LT" in test.attributes:
            limits = [condition[name] for name in test.operands if name in condition]
            numbers = [int(one.arguments) for one in limits if one.opcode == "constant"]
            return numbers[0] if numbers else 1
    return 1


def _kernels(instruction: Instruction, computations: Computations) -> list[Instruction]:
    """Returns the Pallas kernels that an instruction runs: the instruction itself, or kernels inside a fusion."""
    fused = computations[instruction.called("calls")].values() if instruction.opcode == "fusion" else (instruction,)
    target = 'custom_call_target="tpu_custom_call"'
    return [one for one in fused if one.opcode == "custom-call" and target in one.attributes]


def _traffic(instruction: Instruction, computation: Mapping[str, Instruction], computations: Computations) -> int:
    """Returns how many bytes an instruction reads from and writes to HBM."""
    if instruction.opcode in _FREE:
        return 0
    inputs = [computation[name] for name in instruction.operands if name in computation]
    if instruction.opcode == "copy-start":  # the result is (destination, source, semaphore)
        return instruction.results[0].hbm_bytes + sum(shape.hbm_bytes for shape in inputs[0].results)
    if instruction.opcode in ("slice-start", "async-start"):
        return _asynchronous_traffic(instruction)
    if instruction.opcode == "fusion":
        return _fusion_traffic(instruction, inputs, computations[instruction.called("calls")])
    written = sum(shape.hbm_bytes for shape in _without_workspace(instruction))
    read = sum(shape.hbm_bytes for one in inputs for shape in one.results)
    if instruction.opcode in _SLICES:
        read = min(read, sum(shape.bytes for shape in instruction.results))
    if instruction.opcode == "dynamic-update-slice":
        return 2 * min(written, sum(shape.bytes for shape in inputs[1].results))
    return read + written


def _without_workspace(instruction: Instruction) -> tuple[ArrayShape, ...]:
    """Returns the results of an instruction without the workspace of cuBLAS and cuDNN, which they hardly touch."""
    if instruction.opcode == "custom-call" and re.search(
        r'custom_call_target="__(cublas|cudnn)', instruction.attributes
    ):
        return instruction.results[:1]
    return instruction.results


def _asynchronous_traffic(instruction: Instruction) -> int:
    """Returns the traffic of an asynchronous slice, whose result is ((operands), destination, semaphore)."""
    arrays = [shape for shape in instruction.results if shape.dims and shape.holds_data]
    if len(arrays) < 2:
        return 0
    source, destination = arrays[0], arrays[-1]
    moved = min(source.bytes, destination.bytes)
    return moved * (source.memory_space == 0) + moved * (destination.memory_space == 0)


def _fusion_traffic(instruction: Instruction, inputs: list[Instruction], body: Mapping[str, Instruction]) -> int:
    parameters = {int(one.arguments): one for one in body.values() if one.opcode == "parameter"}
    roots = _roots(body)
    updated = {_in_place(root, body) for root in roots} - {None}
    total = 0
    for i, operand in enumerate(inputs):
        size = sum(shape.hbm_bytes for shape in operand.results)
        if size and i in parameters:
            size = min(size, _read_of(parameters[i].name, body, updated))
        total += size
    for shape, root in zip(instruction.results, roots, strict=False):
        update = body[root.operands[1]] if root.opcode == "dynamic-update-slice" else None
        written = sum(one.bytes for one in update.results) if update else shape.hbm_bytes
        total += min(written, shape.hbm_bytes)
    return total


def _roots(body: Mapping[str, Instruction]) -> list[Instruction]:
    """Returns the instruction that computes each result of a fusion, skipping bitcasts."""
    (root,) = [one for one in body.values() if one.is_root]
    roots = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return [_through_bitcasts(one, body) for one in roots]


def _through_bitcasts(instruction: Instruction, body: Mapping[str, Instruction]) -> Instruction:
    while instruction.opcode == "bitcast":
        instruction = body[instruction.operands[0]]
    return instruction


def _in_place(root: Instruction, body: Mapping[str, Instruction]) -> str | None:
    """Returns the parameter that a fusion's result updates in place, or None."""
    if root.opcode != "dynamic-update-slice":
        return None
    target = _through_bitcasts(body[root.operands[0]], body)
    return target.name if target.opcode == "parameter" else None


def _read_of(name: str, body: Mapping[str, Instruction], updated: set[str | None]) -> int:
    """Returns how many bytes of a parameter a fusion reads: all, unless each use is a slice or an update in place."""
    total = 0
    for user in body.values():
        if name not in user.operands:
            continue
        if user.opcode == "bitcast":
            total += _read_of(user.name, body, updated)
        elif user.opcode in _SLICES and user.operands[0] == name:
            total += sum(shape.bytes for shape in user.results)
        elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == name):
            total += sum(shape.bytes for shape in body[name].results)
    return total


def _payload(instruction: Instruction) -> int:
    """Returns the size of a collective's result in bytes. The result of a start instruction includes the operands."""
    sizes = [shape.bytes for shape in instruction.results if shape.holds_data]
    return sum(sizes) // 2 if instruction.opcode.endswith("-start") and len(sizes) > 1 else sum(sizes)


def _kernel_name(instruction: Instruction) -> str:
    """Returns the `name` of a `pallas_call`, which is the last but one part of the operation's path."""
    operation = re.search(r'op_name="([^"]*)"', instruction.attributes)
    path = operation[1].split("/") if operation else []
    return path[-2] if path[-1:] == ["pallas_call"] and len(path) > 1 else instruction.name
