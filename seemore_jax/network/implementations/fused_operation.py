"""Kernels as JAX operations: differentiable, mappable and exportable in every way that JAX knows.

A kernel computes values, and a second one computes the gradient. JAX's `custom_vjp` would refuse forward mode, and
`vmap` would call a kernel once for each image. So each `FusedOperation` is called through three primitives:

    fused_call      the values, by the kernel
    fused_tangent   the directional derivative, by the operation's plain function; its transpose is `fused_backward`
    fused_backward  the gradient, by the backward kernel; its own derivatives are those of the plain function

Reverse mode turns a call into a tangent and its transpose, and so runs the two kernels. Forward mode and derivatives of
higher order run the plain function. `vmap` over images puts the mapped axis into the batch axis of one call; where
weights are mapped as well, one call follows the other, and so do calls of a backward kernel.
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
    """A function of arrays that kernels compute.

    Operations that compare equal share compiled programs, so the functions should not be made anew for each call.

    Attributes:
      name: as messages name the operation.
      plain: the same function in JAX, from the arrays to a tuple of results. It defines what the kernels compute.
      forward: computes the results by a kernel.
      backward: computes, from the arrays and the results' cotangents, the cotangents of all floating-point arrays in
        their order. None: the gradient is that of `plain`.
      batched: which arrays have the images as their first axis, as all results have.
      platforms: where the kernels can be compiled; elsewhere, and in exported programs, `plain` takes their place. None
        is everywhere.
      trusts_backward: asked whether the backward kernel may be used, when a gradient is traced; otherwise the gradient
        is that of `plain`. None: it may.
    """

    name: str
    plain: Callable[..., Arrays]
    forward: Callable[..., Arrays]
    backward: Callable[..., Arrays] | None
    batched: tuple[int, ...]
    platforms: tuple[str, ...] | None = None
    trusts_backward: Callable[[], bool] | None = None

    def __call__(self, *arrays: Array) -> Arrays:
        """The results, for arrays as `plain` takes them."""
        return tuple(_bind(_CALL, *arrays, operation=self))

    def plain_backward(self, *arrays_and_cotangents: Array, count: int) -> Arrays:
        """What `backward` computes, by the derivative of `plain`; the first `count` are the arrays."""
        arrays, cotangents = arrays_and_cotangents[:count], arrays_and_cotangents[count:]
        positions = _floating(arrays)

        def of_floating(*floating: Array) -> Arrays:
            return self.plain(*_replaced(arrays, positions, floating))

        return jax.vjp(of_floating, *(arrays[i] for i in positions))[1](tuple(cotangents))


def backward(operation: FusedOperation, arrays: Arrays, cotangents: Arrays) -> Arrays:
    """The cotangents of the operation's floating-point arrays, by its backward kernel."""
    return tuple(_bind(_BACKWARD, *arrays, *cotangents, operation=operation, count=len(arrays)))


_OBSERVED: contextvars.ContextVar[list[tuple[FusedOperation, Arrays]] | None] = contextvars.ContextVar(
    "observed", default=None
)


@contextlib.contextmanager
def observed() -> Iterator[list[tuple[FusedOperation, Arrays]]]:
    """Yields a list of the operations that are called on concrete arrays while the block runs, with their arrays."""
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
    """The derivative of `plain` along the last arrays, which are tangents of those in `active`."""
    count = len(arrays) - len(active)
    primals, tangents = arrays[:count], arrays[count:]

    def of_active(*some: Array) -> Arrays:
        return operation.plain(*_replaced(primals, active, some))

    return jax.jvp(of_active, tuple(primals[i] for i in active), tuple(tangents))[1]


def _backward(*arrays: Array, operation: FusedOperation, count: int) -> Arrays:
    if operation.backward is None:
        return operation.plain_backward(*arrays, count=count)
    return tuple(operation.backward(*arrays))


def _backward_without_kernel(*arrays: Array, operation: FusedOperation, count: int) -> Arrays:
    return operation.plain_backward(*arrays, count=count)


def _replaced(arrays: Sequence[Array], positions: Sequence[int], others: Sequence[Array]) -> list[Array]:
    replaced = list(arrays)
    for position, other in zip(positions, others, strict=True):
        replaced[position] = other
    return replaced


def _floating(arrays: Sequence[Any]) -> tuple[int, ...]:
    return tuple(i for i, array in enumerate(arrays) if jnp.issubdtype(array.dtype, jnp.floating))


# Binding, evaluation and lowering.


def _bind(primitive: Primitive, *arrays: Array, **parameters: Any) -> Sequence[Array]:
    """Binds a primitive; inside `jax.shard_map`, all its arrays vary over the same axes of the mesh."""
    axes = _varying_axes(map(jax.typeof, arrays))
    if axes:
        arrays = tuple(_vary(array, axes - _varying_axes([jax.typeof(array)])) for array in arrays)
    return primitive.bind(*arrays, **parameters)


def _varying_axes(shapes: Iterable[Any]) -> frozenset[Any]:
    """Axes of the mesh over which any of the arrays varies."""
    return frozenset().union(*(shape.manual_axis_type.varying for shape in shapes))


def _vary(array: Array, axes: frozenset[Any]) -> Array:
    return jax.lax.pcast(array, tuple(axes), to="varying") if axes else array


def _shape_on(mesh: Any, varying_axes: frozenset[Any], result: Any) -> jax.core.ShapedArray:
    """A result's shape; inside `jax.shard_map`, it varies over the axes over which the arguments vary."""
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
    """A primitive that computes `function`; in a program that cannot hold the kernels, `without_kernel`."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    def abstract(*arrays: Any, **parameters: Any) -> list[Any]:
        results = result_shapes([jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays], **parameters)
        mesh, axes = arrays[0].sharding.mesh, _varying_axes(arrays)
        return [_shape_on(mesh, axes, result) for result in results]

    def lowering(context: Any, *operands: Any, operation: FusedOperation, **others: Any) -> Any:
        chosen = function if _has_kernel(context, operation) else without_kernel
        lowered = mlir.lower_fun(functools.partial(chosen, operation=operation, **others), multiple_results=True)
        # Inside a program, the axes over which arrays vary play no part any more.
        unvarying = [jax.core.ShapedArray(array.shape, array.dtype) for array in context.avals_in]
        return lowered(context.replace(avals_in=unvarying), *operands)

    @functools.lru_cache(maxsize=1024)
    def compiled(**parameters: Any) -> Callable[..., Any]:
        return jax.jit(functools.partial(primitive.bind, **parameters))

    def evaluate(*arrays: Array, **parameters: Any) -> Any:
        calls = _OBSERVED.get()
        if calls is not None and function is _call:
            calls.append((parameters["operation"], arrays))
        with jax.disable_jit(False):  # a kernel is a compiled program in any case
            return compiled(**parameters)(*arrays)

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, lowering)
    return primitive


def _has_kernel(context: Any, operation: FusedOperation) -> bool:
    """Whether the program that is lowered can hold the operation's kernels."""
    module = context.module_context
    if module.lowering_parameters.for_export:  # it will run on other machines
        return False
    platforms = context.platforms or module.platforms
    return operation.platforms is None or set(platforms) <= set(operation.platforms)


_CALL = _primitive("fused_call", _call, _call_without_kernel, _shapes_of_call)
_TANGENT = _primitive("fused_tangent", _tangent, _tangent, _shapes_of_tangent)
_BACKWARD = _primitive("fused_backward", _backward, _backward_without_kernel, _shapes_of_backward)


_FUNCTIONS: dict[Primitive, Callable[..., Arrays]] = {_CALL: _call, _TANGENT: _tangent, _BACKWARD: _backward}


def programs_in(equation: Any) -> list[Any]:
    """The programs (jaxprs) that an equation of a traced program calls; of a fused operation, that of its kernel."""
    if equation.primitive not in _FUNCTIONS:
        return list(jaxprs_in_params(equation.params))
    function = functools.partial(_FUNCTIONS[equation.primitive], **equation.params)
    shapes = [jax.ShapeDtypeStruct(array.aval.shape, array.aval.dtype) for array in equation.invars]
    return [jax.make_jaxpr(function)(*shapes).jaxpr]


# Derivatives.


def _jvp_of_call(primals: Sequence[Array], tangents: Sequence[Any], *, operation: FusedOperation) -> Any:
    active = tuple(i for i in _floating(primals) if type(tangents[i]) is not ad.Zero)
    results = _bind(_CALL, *primals, operation=operation)
    moved = (tangents[i] for i in active)
    return results, _bind(_TANGENT, *primals, *moved, operation=operation, active=active)


def _jvp_of_plain(function: Callable[..., Arrays]) -> Callable[..., Any]:
    """The rule of a primitive whose derivatives are those of a function in JAX."""

    def rule(primals: Sequence[Array], tangents: Sequence[Any], **parameters: Any) -> Any:
        moving = [i for i in _floating(primals) if type(tangents[i]) is not ad.Zero]

        def of_moving(*some: Array) -> Arrays:
            return function(*_replaced(primals, moving, some), **parameters)

        return jax.jvp(of_moving, tuple(primals[i] for i in moving), tuple(tangents[i] for i in moving))

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
        gradients = operation.plain_backward(*primals, *instantiated, count=count)
    of_position = dict(zip(_floating(primals), gradients, strict=True))
    return [None] * count + [of_position[i] for i in active]


ad.primitive_jvps[_CALL] = _jvp_of_call
ad.primitive_jvps[_TANGENT] = _jvp_of_plain(_tangent)
ad.primitive_jvps[_BACKWARD] = _jvp_of_plain(_backward_without_kernel)
ad.primitive_transposes[_TANGENT] = _transpose_of_tangent


# Mapping.


def _batch_call(arrays: Sequence[Array], axes: Sequence[int | None], *, operation: FusedOperation) -> Any:
    """The mapped axis goes into the images' axis; where other arrays are mapped as well, one call follows the other."""
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
