"""Counts the FLOPs of matrix products and convolutions in a traced program, including its loops and Pallas kernels.

XLA's own count takes the body of a loop once and leaves Pallas kernels out.
"""

import math
from collections.abc import Iterator
from typing import Any

from seemore_jax.network.implementations.fused_operation import programs_in


def matrix_flops(jaxpr: Any) -> int:
    """Counts the FLOPs of all matrix products and convolutions in one run of a program on one device.

    The result is the work of the matrix units, which is more than the network needs: it includes what kernels compute
    twice, and their products with diagonal matrices. Of the branches of a conditional, the largest counts. A loop
    without a fixed length counts once.

    Args:
      jaxpr: the traced program, a `jax.core.Jaxpr`.

    Returns:
      FLOPs, 2 for each multiplication.
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
    """Yields the equations of one primitive, including those inside loops, branches and called functions.

    Args:
      jaxpr: the traced program, a `jax.core.Jaxpr`.
      name: the name of the primitive, such as "pallas_call".
    """
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        else:
            for inner in programs_in(equation):
                yield from equations(inner, name)
