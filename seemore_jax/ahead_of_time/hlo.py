"""Parses HLO text, the form in which XLA prints compiled programs, into array shapes, instructions and computations.

Source: https://openxla.org/xla/tiled_layout describes the layouts of arrays.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

# Bits of the element types whose name does not end in that number.
_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"(?P<dtype>[a-z]+[0-9]*[a-z0-9]*)\[(?P<dims>[0-9,]*)\](?:\{(?P<layout>[^{}]*)\})?")
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_OPCODE = re.compile(r"\s*(?P<opcode>[a-z][\w\-]*)\(")
_NAMES = re.compile(r"%([\w.\-]+)")
# Memory spaces that hold arrays: HBM, VMEM and CMEM.
_ARRAY_SPACES = (0, 1, 3)


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """The type, size and layout of one array in a compiled program.

    Attributes:
      dtype: the element type by its HLO name, such as "bf16".
      dims: the logical dimensions.
      order: the indices of the dimensions from the most minor to the most major one.
      tile: the sides of the layout's first tile. The most minor dimensions are padded to multiples of them.
      memory_space: where the array is: 0 is HBM, 1 is VMEM, 3 is the CMEM of v4; the others are scalar memory and
        semaphores.
    """

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]
    memory_space: int

    @property
    def bytes(self) -> int:
        """Returns the size in bytes, including the padding of the layout."""
        physical = [self.dims[i] for i in reversed(self.order)] if self.order else list(self.dims)
        tile = self.tile[-len(physical) :] if physical else ()
        for i, size in enumerate(reversed(tile), start=1):
            physical[-i] = math.ceil(physical[-i] / size) * size
        return math.prod(physical) * _bits(self.dtype) // 8

    @property
    def holds_data(self) -> bool:
        """Returns whether this is an array of data, and not in scalar memory or a semaphore."""
        return self.memory_space in _ARRAY_SPACES

    @property
    def hbm_bytes(self) -> int:
        """Returns the size in HBM in bytes, which is 0 if the array is in another memory."""
        return self.bytes if self.memory_space == 0 else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One HLO instruction.

    Attributes:
      name: the name, without the leading %.
      results: the arrays of the result; a tuple has several.
      opcode: the operation, such as "fusion".
      arguments: the text between the parentheses after the opcode.
      attributes: the text after the arguments.
      is_root: whether the result is the result of the computation.
    """

    name: str
    results: tuple[ArrayShape, ...]
    opcode: str
    arguments: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Returns the names of the instructions whose results this instruction takes."""
        return _NAMES.findall(self.arguments)

    def called(self, attribute: str) -> str:
        """Returns the name of the computation that an attribute refers to.

        Args:
          attribute: the name of the attribute, such as "body" or "to_apply".

        Raises:
          ValueError: the instruction has no such attribute.
        """
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        if not found:
            raise ValueError(f"HLO: {self.name} has no {attribute}")
        return found[1]

    @property
    def branches(self) -> list[str]:
        """Returns the names of the computations that a conditional chooses from.

        Raises:
          ValueError: the instruction is not a conditional.
        """
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if listed:
            return _NAMES.findall(listed[1])
        return [self.called("true_computation"), self.called("false_computation")]

    @property
    def estimated_cycles(self) -> int:
        """Returns XLA's estimate in cycles, or 0 if there is none, as for custom calls."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0


# Instructions by computation and by name.
Computations = Mapping[str, Mapping[str, Instruction]]


def parse_module(hlo_text: str) -> tuple[Computations, str]:
    """Parses the text of an HLO module.

    Args:
      hlo_text: the text, as `compiled.as_text()` returns it.

    Returns:
      The computations by name, and the name of the entry computation.

    Raises:
      ValueError: the text has no entry computation, or an instruction cannot be parsed.
    """
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
    """Returns the index of the parenthesis that closes the one at index `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"HLO: parenthesis does not close in {text[:80]}")


def parse_shape(text: str) -> tuple[ArrayShape, ...]:
    """Parses the shape of an instruction's result.

    Args:
      text: an array such as "bf16[32,40]{1,0:T(8,128)(2,1)S(1)}", or a tuple of arrays.

    Returns:
      The arrays in their order; nested tuples are flattened.
    """
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
