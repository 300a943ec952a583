"""Kernels as JAX operations that support all transformations of JAX: derivatives, `vmap` and export.

An operation has a forward kernel, which computes values, and a backward kernel, which computes the gradient. JAX's
`custom_vjp` does not support forward mode, and with it `vmap` would call a kernel once for each image. Therefore each
`FusedOperation` is called through three primitives:

    fused_call      computes the values by the forward kernel
    fused_tangent   computes the directional derivative by the plain function; its transpose is `fused_backward`
    fused_backward  computes the gradient by the backward kernel; its derivatives are those of the plain function

Reverse mode differentiates a call into a tangent and transposes it, and so runs both kernels. Forward mode and
derivatives of higher order run the plain function. `vmap` over images makes one call, whose batch axis includes the
mapped axis. `vmap` over weights, or over a backward kernel, makes one call after the other.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, jaxprs_in_params
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

Arrays = tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class FusedOperation:
    """Function of arrays that kernels compute.

    Operations that compare equal share compiled programs. The functions should therefore not be created anew for each
    call.

    Attributes:
      name: name of the operation in messages.
      plain: the same function in JAX, from the arrays to a tuple of results. It defines what the kernels compute.
      forward: function that computes the results by a kernel; it takes the same arguments as `plain`.
      backward: function that computes the gradient by a kernel. It takes the tuple of arrays and the tuple of the
        results' cotangents, and returns the cotangents of all floating-point arrays in their order. If it is None,
        `plain` computes both values and gradient where a gradient is taken.
      batched: positions of the arrays that have the images as their first axis, as all results have.
      platforms: platforms that can run the kernels, None for all. On other platforms, and in exported programs, `plain`
        replaces the kernels.
      trusts_backward: function that says whether the backward kernel may be used; it is called while a gradient is
        traced. If it returns False, the gradient is that of `plain`. None means that the kernel may be used.
    """

    name: str
    plain: Callable[..., Arrays]
    forward: Callable[..., Arrays]
    backward: Callable[[Arrays, Arrays], Arrays] | None
    batched: tuple[int, ...]
    platforms: tuple[str, ...] | None = None
    trusts_backward: Callable[[], bool] | None = None

    def __call__(self, *arrays: Array) -> Arrays:
        """Returns the results, for the same arrays as `plain`."""
        return tuple(_bind(_CALL, *arrays, operation=self))

    def plain_backward(self, arrays: Arrays, cotangents: Arrays) -> Arrays:
        """Computes the gradient by the derivative of `plain`.

        Args:
          arrays: the operation's arrays.
          cotangents: cotangents of its results.

        Returns:
          The cotangents of the floating-point arrays, in their order.
        """
        positions = _floating(arrays)

        def of_floating(*floating: Array) -> Arrays:
            return self.plain(*_replaced(arrays, positions, floating))

        return jax.vjp(of_floating, *(arrays[i] for i in positions))[1](tuple(cotangents))


def backward(operation: FusedOperation, arrays: Arrays, cotangents: Arrays) -> Arrays:
    """Computes the gradient of an operation by its backward kernel.

    Args:
      operation: the operation.
      arrays: its arrays.
      cotangents: cotangents of its results.

    Returns:
      The cotangents of the floating-point arrays, in their order.
    """
    return tuple(_bind(_BACKWARD, *arrays, *cotangents, operation=operation, count=len(arrays)))


_OBSERVED: contextvars.ContextVar[list[tuple[FusedOperation, Arrays]] | None] = contextvars.ContextVar(
    "observed", default=None
)


@contextlib.contextmanager
def observed() -> Iterator[list[tuple[FusedOperation, Arrays]]]:
    """Records the operations that are called on concrete arrays, not on tracers, while the block runs.

    Yields:
      A list to which each call adds the operation and its arrays.
    """
    calls: list[tuple[FusedOperation, Arrays]] = []
    token = _OBSERVED.set(calls)
    try:
        yield calls
    finally:
        _OBSERVED.reset(token)


def _call(*arrays: Array, operation: FusedOperation) -> Arrays:
    return operation.forward(*arrays)


def _call_without_kernel(*arrays: Array, operation: FusedOperation) -> Arrays:
    return operation.plain(*arrays)


def _tangent(*arrays: Array, operation: FusedOperation, active: tuple[int, ...]) -> Arrays:
    """Computes the derivative of `plain`; the last arrays are the tangents of the arrays at the positions `active`."""
    count = len(arrays) - len(active)
    primals, tangents = arrays[:count], arrays[count:]

    def of_active(*some: Array) -> Arrays:
        return operation.plain(*_replaced(primals, active, some))

    return jax.jvp(of_active, tuple(primals[i] for i in active), tuple(tangents))[1]


def _backward(*arrays: Array, operation: FusedOperation, count: int) -> Arrays:
    gradient = operation.backward or operation.plain_backward
    return tuple(gradient(arrays[:count], arrays[count:]))


def _backward_without_kernel(*arrays: Array, operation: FusedOperation, count: int) -> Arrays:
    return operation.plain_backward(arrays[:count], arrays[count:])


def _replaced(arrays: Sequence[Array], positions: Sequence[int], others: Sequence[Array]) -> list[Array]:
    """Returns the arrays with those at the positions replaced by others."""
    replaced = list(arrays)
    for position, other in zip(positions, others, strict=True):
        replaced[position] = other
    return replaced


def _floating(arrays: Sequence[Any]) -> tuple[int, ...]:
    """Returns the positions of the floating-point arrays."""
    return tuple(i for i, array in enumerate(arrays) if jnp.issubdtype(array.dtype, jnp.floating))


# Binding, evaluation and lowering.


def _bind(primitive: Primitive, *arrays: Array, **parameters: Any) -> Sequence[Array]:
    """Binds a primitive. Inside `jax.shard_map`, its arrays are first made to vary over the same axes of the mesh."""
    axes = _varying_axes(map(jax.typeof, arrays))
    if axes:
        arrays = tuple(_vary(array, axes - _varying_axes([jax.typeof(array)])) for array in arrays)
    return primitive.bind(*arrays, **parameters)


def _varying_axes(shapes: Iterable[Any]) -> frozenset[Any]:
    """Returns the axes of the mesh over which at least one of the arrays varies."""
    return frozenset().union(*(shape.manual_axis_type.varying for shape in shapes))


def _vary(array: Array, axes: frozenset[Any]) -> Array:
    return jax.lax.pcast(array, tuple(axes), to="varying") if axes else array


def _shape_on(mesh: Any, varying_axes: frozenset[Any], result: Any) -> jax.core.ShapedArray:
    """Returns the abstract value of a result. Inside `jax.shard_map`, it varies over the same axes as the arguments."""
    if not varying_axes:
        return jax.core.ShapedArray(result.shape, result.dtype)
    varying = jax.sharding.ManualAxisType(varying=varying_axes)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*[None] * result.ndim))
    return jax.core.ShapedArray(result.shape, result.dtype, sharding=sharding, manual_axis_type=varying)


def _shapes_of_call(arrays: Sequence[Any], operation: FusedOperation) -> Sequence[Any]:
    return jax.eval_shape(operation.forward, *arrays)


def _shapes_of_tangent(arrays: Sequence[Any], operation: FusedOperation, active: tuple[int, ...]) -> Sequence[Any]:
    return _shapes_of_call(arrays[: len(arrays) - len(active)], operation)


def _shapes_of_backward(arrays: Sequence[Any], operation: FusedOperation, count: int) -> Sequence[Any]:
    return [arrays[i] for i in _floating(arrays[:count])]


def _primitive(
    name: str,
    function: Callable[..., Arrays],
    without_kernel: Callable[..., Arrays],
    result_shapes: Callable[..., Sequence[Any]],
) -> Primitive:
    """Makes a primitive that computes `function`, or `without_kernel` in a program that cannot contain the kernels."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    def abstract(*arrays: Any, **parameters: Any) -> list[Any]:
        results = result_shapes([jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays], **parameters)
        mesh, axes = arrays[0].sharding.mesh, _varying_axes(arrays)
        return [_shape_on(mesh, axes, result) for result in results]

    def lowering(context: Any, *operands: Any, operation: FusedOperation, **others: Any) -> Any:
        chosen = function if _has_kernel(context, operation) else without_kernel
        lowered = mlir.lower_fun(functools.partial(chosen, operation=operation, **others), multiple_results=True)
        # The lowered function ignores the axes over which arrays vary.
        unvarying = [jax.core.ShapedArray(array.shape, array.dtype) for array in context.avals_in]
        return lowered(context.replace(avals_in=unvarying), *operands)

    @functools.lru_cache(maxsize=1024)
    def compiled(**parameters: Any) -> Callable[..., Any]:
        return jax.jit(functools.partial(primitive.bind, **parameters))

    def evaluate(*arrays: Array, **parameters: Any) -> Any:
        calls = _OBSERVED.get()
        if calls is not None and function is _call:
            calls.append((parameters["operation"], arrays))
        with jax.disable_jit(False):  # a kernel is always a compiled program
            return compiled(**parameters)(*arrays)

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, lowering)
    return primitive


def _has_kernel(context: Any, operation: FusedOperation) -> bool:
    """Returns whether the program that is lowered can contain the operation's kernels."""
    module = context.module_context
    if module.lowering_parameters.for_export:  # an exported program runs on other machines
        return False
    platforms = context.platforms or module.platforms
    return operation.platforms is None or set(platforms) <= set(operation.platforms)


_CALL = _primitive("fused_call", _call, _call_without_kernel, _shapes_of_call)
_TANGENT = _primitive("fused_tangent", _tangent, _tangent, _shapes_of_tangent)
_BACKWARD = _primitive("fused_backward", _backward, _backward_without_kernel, _shapes_of_backward)


_FUNCTIONS: dict[Primitive, Callable[..., Arrays]] = {_CALL: _call, _TANGENT: _tangent, _BACKWARD: _backward}


def programs_in(equation: Any) -> list[Any]:
    """Returns the programs that an equation of a traced program calls.

    Args:
      equation: an equation of a jaxpr.

    Returns:
      Jaxprs. For a fused operation, this is the program that calls the kernel.
    """
    if equation.primitive not in _FUNCTIONS:
        return list(jaxprs_in_params(equation.params))
    function = functools.partial(_FUNCTIONS[equation.primitive], **equation.params)
    shapes = [jax.ShapeDtypeStruct(array.aval.shape, array.aval.dtype) for array in equation.invars]
    return [jax.make_jaxpr(function)(*shapes).jaxpr]


# Derivatives.


def _jvp_of_call(primals: Sequence[Array], tangents: Sequence[Any], *, operation: FusedOperation) -> Any:
    if operation.backward is None:  # a forward kernel would keep nothing for the gradient of the plain function
        return _jvp_of_plain(_call_without_kernel)(primals, tangents, operation=operation)
    active = tuple(i for i in _floating(primals) if type(tangents[i]) is not ad.Zero)
    results = _bind(_CALL, *primals, operation=operation)
    active_tangents = (tangents[i] for i in active)
    return results, _bind(_TANGENT, *primals, *active_tangents, operation=operation, active=active)


def _jvp_of_plain(function: Callable[..., Arrays]) -> Callable[..., Any]:
    """Returns the differentiation rule of a primitive whose derivatives are those of a function in JAX."""

    def rule(primals: Sequence[Array], tangents: Sequence[Any], **parameters: Any) -> Any:
        active = [i for i in _floating(primals) if type(tangents[i]) is not ad.Zero]

        def of_active(*some: Array) -> Arrays:
            return function(*_replaced(primals, active, some), **parameters)

        return jax.jvp(of_active, tuple(primals[i] for i in active), tuple(tangents[i] for i in active))

    return rule


def _transpose_of_tangent(
    cotangents: Sequence[Any], *arrays: Any, operation: FusedOperation, active: tuple[int, ...]
) -> list[Any]:
    count = len(arrays) - len(active)
    primals = arrays[:count]
    instantiated = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    if operation.trusts_backward is None or operation.trusts_backward():
        gradients = _bind(_BACKWARD, *primals, *instantiated, operation=operation, count=count)
    else:
        gradients = operation.plain_backward(tuple(primals), tuple(instantiated))
    of_position = dict(zip(_floating(primals), gradients, strict=True))
    return [None] * count + [of_position[i] for i in active]


ad.primitive_jvps[_CALL] = _jvp_of_call
ad.primitive_jvps[_TANGENT] = _jvp_of_plain(_tangent)
ad.primitive_jvps[_BACKWARD] = _jvp_of_plain(_backward_without_kernel)
ad.primitive_transposes[_TANGENT] = _transpose_of_tangent


# Batching (`vmap`).


def _batch_call(arrays: Sequence[Array], axes: Sequence[int | None], *, operation: FusedOperation) -> Any:
    """Merges the mapped axis with the axis of the images, if only batched arrays are mapped.

    Otherwise, there is one call after the other.
    """
    mapped = {i: axis for i, axis in enumerate(axes) if axis is not None}
    if not mapped.keys() <= set(operation.batched):
        return _batch_one_by_one(_CALL)(arrays, axes, operation=operation)
    (size,) = {arrays[i].shape[axis] for i, axis in mapped.items()}
    folded = list(arrays)
    for i in operation.batched:
        array = arrays[i]
        spread = jnp.moveaxis(array, mapped[i], 0) if i in mapped else jnp.broadcast_to(array, (size, *array.shape))
        folded[i] = spread.reshape(-1, *spread.shape[2:])
    results = _bind(_CALL, *folded, operation=operation)
    return [result.reshape(size, -1, *result.shape[1:]) for result in results], (0,) * len(results)


def _batch_one_by_one(primitive: Primitive) -> Callable[..., Any]:
    """Returns the batching rule that makes one call after the other."""

    def rule(arrays: Sequence[Array], axes: Sequence[int | None], **parameters: Any) -> Any:
        mapped = {i: axis for i, axis in enumerate(axes) if axis is not None}

        def one(some: Arrays) -> Arrays:
            return tuple(_bind(primitive, *_replaced(arrays, tuple(mapped), some), **parameters))

        results = jax.lax.map(one, tuple(jnp.moveaxis(arrays[i], axis, 0) for i, axis in mapped.items()))
        return results, (0,) * len(results)

    return rule


def _batch_tangent(arrays: Sequence[Array], axes: Sequence[int | None], **parameters: Any) -> Any:
    results = jax.vmap(functools.partial(_tangent, **parameters), tuple(axes))(*arrays)
    return results, (0,) * len(results)


batching.primitive_batchers[_CALL] = _batch_call
batching.primitive_batchers[_TANGENT] = _batch_tangent
batching.primitive_batchers[_BACKWARD] = _batch_one_by_one(_BACKWARD)
