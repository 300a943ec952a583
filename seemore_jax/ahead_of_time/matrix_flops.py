"""The matrix products and convolutions of a traced program, counted with its loops and inside its kernels.

XLA's own count of FLOPs takes a loop's body once and leaves Pallas kernels out.
"""

import math
from collections.abc import Iterator
from typing import Any

from seemore_jax.network.implementations.fused_operation import programs_in


def matrix_flops(jaxpr: Any) -> int:
    """FLOPs of all products and convolutions of one run on one device, 2 for each multiplication.

    Those that a kernel recomputes and those that it does with matrices of diagonals are in it: it is what the matrix
    units do, not what the network needs. Of alternatives the largest counts; a loop whose length is not fixed counts
    once.
    """
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        inner = [matrix_flops(one) for one in programs_in(equation)]
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * depth
        elif name == "conv_general_dilated":
            filters = equation.invars[1].aval.shape
            taps = math.prod(filters) // filters[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * taps
        elif name == "cond":
            total += max(inner)
        else:
            total += _times(name, parameters) * sum(inner)
    return total


def _times(name: str, parameters: dict[str, Any]) -> int:
    if name == "scan":
        return parameters["length"]
    return math.prod(parameters["grid_mapping"].grid) if name == "pallas_call" else 1


def equations(jaxpr: Any, name: str) -> Iterator[Any]:
    """The equations of one primitive, wherever they are in the program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        else:
            for inner in programs_in(equation):
                yield from equations(inner, name)
