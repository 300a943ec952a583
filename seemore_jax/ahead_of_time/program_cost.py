"""What a compiled TPU program costs, read off its optimised HLO text: memory traffic, cycles, collectives.

XLA's own `cost_analysis()["bytes accessed"]` counts operands that stay in VMEM, counts a loop's body once, and leaves
custom calls out. Here the instructions of the entry computation are walked, loop bodies as often as they run.
Everything is a reading of the compiler's output and not a measurement on a device.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"(?P<dtype>[a-z]+[0-9]*[a-z0-9]*)\[(?P<dims>[0-9,]*)\](?:\{(?P<layout>[^{}]*)\})?")
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_OPCODE = re.compile(r"\s*(?P<opcode>[a-z][\w\-]*)\(")
_NAMES = re.compile(r"%([\w.\-]+)")
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# These name or arrange arrays, and move nothing.
_FREE = frozenset(
    (
        *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "after-all"),
        *("partition-id", "replica-id", "copy-done", "slice-done", "async-done", "async-update"),
        *(f"{kind}-done" for kind in _COLLECTIVES),
    )
)
# Memory spaces of HBM, VMEM and CMEM.
_DATA = (0, 1, 3)
_SLICES = frozenset(("slice", "dynamic-slice", "gather"))


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """One array of an HLO shape.

    Attributes:
      dtype: HLO's name of the element type.
      dims: logical dimensions.
      order: dimensions from the most minor to the most major one.
      tile: the first tile of the layout, which the most minor dimensions are padded to.
      memory_space: 0 is HBM, 1 VMEM, 3 the CMEM of v4; others are scalar memory and semaphores.
    """

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]
    memory_space: int

    @property
    def bytes(self) -> int:
        """Size with the layout's padding."""
        physical = [self.dims[i] for i in reversed(self.order)] if self.order else list(self.dims)
        tile = self.tile[-len(physical) :] if physical else ()
        for i, size in enumerate(reversed(tile), start=1):
            physical[-i] = math.ceil(physical[-i] / size) * size
        return math.prod(physical) * _bits(self.dtype) // 8

    @property
    def holds_data(self) -> bool:
        """Whether it is no scalar and no semaphore of an asynchronous instruction."""
        return self.memory_space in _DATA

    @property
    def hbm_bytes(self) -> int:
        """Size in HBM: none if the array is elsewhere."""
        return self.bytes if self.memory_space == 0 else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One HLO instruction: its result's arrays, operation, arguments and the rest of its text."""

    name: str
    results: tuple[ArrayShape, ...]
    opcode: str
    arguments: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the instructions whose results it takes."""
        return _NAMES.findall(self.arguments)

    def called(self, attribute: str) -> str:
        """The computation that this attribute names."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        if not found:
            raise ValueError(f"HLO: {self.name} has no {attribute}")
        return found[1]

    @property
    def estimated_cycles(self) -> int:
        """XLA's estimate; 0 where it makes none, as for custom calls."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0


@dataclasses.dataclass(frozen=True)
class Collective:
    """Communication between devices: kind, bytes of its result on each device, and how often it runs in a step."""

    kind: str
    bytes: int
    times: int


@dataclasses.dataclass(frozen=True)
class KernelCall:
    """A custom call to a hand-written kernel, and how often it runs in a step."""

    name: str
    instruction: str
    hbm_bytes: int
    times: int


@dataclasses.dataclass(frozen=True)
class ProgramCost:
    """What one run of a program costs on each device.

    Attributes:
      hbm_bytes: padded sizes of what instructions read from and write to HBM.
      xla_cycles: sum of XLA's `estimated_cycles`; kernels are not in it.
      kernels: calls of hand-written kernels; what they read and write is in `hbm_bytes`.
      collectives: communication between devices.
    """

    hbm_bytes: int
    xla_cycles: int
    kernels: tuple[KernelCall, ...]
    collectives: tuple[Collective, ...]


Computations = Mapping[str, Mapping[str, Instruction]]


def program_cost(hlo_text: str) -> ProgramCost:
    """The cost of a program from its optimised HLO text, as `compiled.as_text()` gives it.

    Traffic is counted for each instruction that runs by itself: operands that it reads from HBM and results that it
    writes there, each once. Of an operand that is only sliced, the slices count; of a result that is an operand
    updated in place, the update. A kernel is taken to read and write each of its arrays once.

    Raises:
      ValueError: the text is not an HLO module with an entry computation.
    """
    computations, entry = parse(hlo_text)
    hbm_bytes, cycles = 0, 0
    kernels, collectives = [], []
    for times, computation, instruction in _executed(computations, entry, 1):
        traffic = _traffic(instruction, computation, computations)
        hbm_bytes += times * traffic
        cycles += times * instruction.estimated_cycles
        kind = instruction.opcode.removesuffix("-start")
        if kind in _COLLECTIVES:
            collectives.append(Collective(kind, _payload(instruction), times))
        for kernel in _kernels(instruction, computations):
            kernels.append(KernelCall(_kernel_name(kernel), instruction.name, traffic, times))
    return ProgramCost(hbm_bytes, cycles, tuple(kernels), tuple(collectives))


def memory(compiled: Any) -> dict[str, int]:
    """Bytes on each device for arguments, results, temporaries and code of a `jax.stages.Compiled`."""
    stats = compiled.memory_analysis()
    return {
        "arguments": stats.argument_size_in_bytes,
        "results": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }


def parse(hlo_text: str) -> tuple[Computations, str]:
    """The computations of an HLO module by name, and the name of the entry computation."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, None
    for line in hlo_text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header["name"], {})
            entry = header["name"] if header["entry"] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _INSTRUCTION.match(line)):
            instruction = _parse_instruction(match["name"], match["rest"], bool(match["root"]))
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("no HLO module: it has no entry computation")
    return computations, entry


def _parse_instruction(name: str, text: str, is_root: bool) -> Instruction:
    shape_end = _closing(text, 0) + 1 if text.startswith("(") else _ARRAY.match(text).end()  # type: ignore[union-attr]
    opcode = _OPCODE.match(text, shape_end)
    if not opcode:
        raise ValueError(f"HLO: cannot read {name} = {text[:80]}")
    end = _closing(text, opcode.end() - 1)
    return Instruction(
        name=name,
        results=parse_shape(text[:shape_end]),
        opcode=opcode["opcode"],
        arguments=text[opcode.end() : end],
        attributes=text[end + 1 :],
        is_root=is_root,
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"HLO: parenthesis does not close in {text[:80]}")


def parse_shape(text: str) -> tuple[ArrayShape, ...]:
    """The arrays of an HLO shape, tuples flattened: "bf16[32,40]{1,0:T(8,128)(2,1)S(1)}"."""
    return tuple(_array_shape(match) for match in _ARRAY.finditer(text))


def _array_shape(match: re.Match[str]) -> ArrayShape:
    order, _, rest = (match["layout"] or "").partition(":")
    tile = re.search(r"T\(([\d,]+)\)", rest)
    space = re.search(r"S\((\d+)\)", rest)
    return ArrayShape(
        dtype=match["dtype"],
        dims=_integers(match["dims"]),
        order=_integers(order),
        tile=_integers(tile[1]) if tile else (),
        memory_space=int(space[1]) if space else 0,
    )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    width = re.search(r"\d+", dtype)
    return int(width[0]) if width else 0


def _executed(
    computations: Computations, name: str, times: int
) -> Iterator[tuple[int, Mapping[str, Instruction], Instruction]]:
    """Every instruction that runs by itself, with how often and the computation that it is in.

    Of a conditional all branches are taken to run: an upper bound.
    """
    computation = computations[name]
    for instruction in computation.values():
        if instruction.opcode == "while":
            yield from _executed(
                computations, instruction.called("body"), times * _trip_count(instruction, computations)
            )
        elif instruction.opcode == "call":
            yield from _executed(computations, instruction.called("to_apply"), times)
        elif instruction.opcode == "conditional":
            for branch in _branches(instruction):
                yield from _executed(computations, branch, times)
        else:
            yield times, computation, instruction


def _trip_count(loop: Instruction, computations: Computations) -> int:
    """How often a while loop runs; 1 where its text does not tell.

    Where the compiler does not note it, the loop is a scan's if it ends when a counter, which begins at 0, is no longer
    below a constant.
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
    """The hand-written kernels that an instruction runs: itself, or those that were fused with what follows them."""
    fused = computations[instruction.called("calls")].values() if instruction.opcode == "fusion" else (instruction,)
    target = 'custom_call_target="tpu_custom_call"'
    return [one for one in fused if one.opcode == "custom-call" and target in one.attributes]


def _branches(instruction: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if listed:
        return _NAMES.findall(listed[1])
    return [instruction.called("true_computation"), instruction.called("false_computation")]


def _traffic(instruction: Instruction, computation: Mapping[str, Instruction], computations: Computations) -> int:
    """Bytes that an instruction reads from and writes to HBM."""
    if instruction.opcode in _FREE:
        return 0
    inputs = [computation[name] for name in instruction.operands if name in computation]
    if instruction.opcode == "copy-start":  # its result is (destination, source, semaphore)
        return instruction.results[0].hbm_bytes + sum(shape.hbm_bytes for shape in inputs[0].results)
    if instruction.opcode in ("slice-start", "async-start"):
        return _asynchronous_traffic(instruction)
    if instruction.opcode == "fusion":
        return _fusion_traffic(instruction, inputs, computations[instruction.called("calls")])
    written = sum(shape.hbm_bytes for shape in instruction.results)
    read = sum(shape.hbm_bytes for one in inputs for shape in one.results)
    if instruction.opcode in _SLICES:
        read = min(read, sum(shape.bytes for shape in instruction.results))
    if instruction.opcode == "dynamic-update-slice":
        return 2 * min(written, sum(shape.bytes for shape in inputs[1].results))
    return read + written


def _asynchronous_traffic(instruction: Instruction) -> int:
    """Of an asynchronous slice or the like, whose result is ((operands), destination, semaphore): the slice."""
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
    """What a fusion returns, one for each of its results, seen through bitcasts."""
    (root,) = [one for one in body.values() if one.is_root]
    roots = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return [_through_bitcasts(one, body) for one in roots]


def _through_bitcasts(instruction: Instruction, body: Mapping[str, Instruction]) -> Instruction:
    while instruction.opcode == "bitcast":
        instruction = body[instruction.operands[0]]
    return instruction


def _in_place(root: Instruction, body: Mapping[str, Instruction]) -> str | None:
    """The parameter that a fusion's result is an update of, if it is one."""
    if root.opcode != "dynamic-update-slice":
        return None
    target = _through_bitcasts(body[root.operands[0]], body)
    return target.name if target.opcode == "parameter" else None


def _read_of(name: str, body: Mapping[str, Instruction], updated: set[str | None]) -> int:
    """Bytes that a fusion reads of a parameter: all of it unless each use is a slice or the update in place."""
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
    """Bytes of a collective's result; a start instruction's result also holds its operands."""
    sizes = [shape.bytes for shape in instruction.results if shape.holds_data]
    return sum(sizes) // 2 if instruction.opcode.endswith("-start") and len(sizes) > 1 else sum(sizes)


def _kernel_name(instruction: Instruction) -> str:
    """The `name` of the `pallas_call`, which stands before it in the operation's path."""
    operation = re.search(r'op_name="([^"]*)"', instruction.attributes)
    path = operation[1].split("/") if operation else []
    return path[-2] if path[-1:] == ["pallas_call"] and len(path) > 1 else instruction.name
