"""If these tests fail, kernels do not run where they should, or run where they cannot, or gradients are wrong.

The kernels here are functions in JAX whose results are a multiple of those of the plain function. A result therefore
shows whether a kernel or the plain function computed it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from seemore_jax.network.implementations import fused_operation
from seemore_jax.network.implementations.fused_operation import Arrays, FusedOperation

# The results of the forward and of the backward kernel are these multiples of those of the plain function.
FORWARD = 10.0
BACKWARD = 100.0

IMAGES = jnp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
INDEX = jnp.asarray([0, 2, 1])
WEIGHT = jnp.asarray([0.5, -1.0, 2.0])
ALL_ONES = (jnp.ones_like(IMAGES), jnp.ones_like(IMAGES))

# Shape of the first array in each call of a kernel, recorded when it is traced.
_FORWARD_CALLS: list[tuple[int, ...]] = []
_BACKWARD_CALLS: list[tuple[int, ...]] = []


def plain(images: Array, index: Array, weight: Array) -> Arrays:
    """Returns two results for (N, 3) images: the first is linear in the images, the second is quadratic."""
    return images[:, index] * weight, images**2 * weight


def forward(images: Array, index: Array, weight: Array) -> Arrays:
    _FORWARD_CALLS.append(images.shape)
    return tuple(FORWARD * result for result in plain(images, index, weight))


def backward(arrays: Arrays, cotangents: Arrays) -> Arrays:
    images, index, weight = arrays
    _BACKWARD_CALLS.append(images.shape)
    _, pull_back = jax.vjp(lambda images, weight: plain(images, index, weight), images, weight)
    return tuple(BACKWARD * gradient for gradient in pull_back(cotangents))


def operation(**fields: Any) -> FusedOperation:
    """Returns a new operation, which shares no compiled program with other tests."""
    _FORWARD_CALLS.clear()
    _BACKWARD_CALLS.clear()
    settings: dict[str, Any] = {
        "name": "made_up",
        "plain": lambda *arrays: plain(*arrays),  # a new function, so that no other operation is equal
        "forward": forward,
        "backward": backward,
        "batched": (0,),
    }
    return FusedOperation(**(settings | fields))


def total(op: FusedOperation, images: Array, weight: Array) -> Array:
    first, second = op(images, INDEX, weight)
    return jnp.sum(first) + jnp.sum(second)


def plain_total(images: Array, weight: Array) -> Array:
    first, second = plain(images, INDEX, weight)
    return jnp.sum(first) + jnp.sum(second)


def assert_same(mine: Any, expected: Any, times: float = 1.0) -> None:
    """Asserts that all arrays of `mine` are `times` those of `expected`."""
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, times * np.asarray(other), rtol=1e-5, atol=1e-5)


eager_and_compiled = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])


# Values.


@eager_and_compiled
def test_values_are_those_of_the_forward_kernel(compiled: bool) -> None:
    op = operation()
    function = jax.jit(op) if compiled else op
    assert_same(function(IMAGES, INDEX, WEIGHT), plain(IMAGES, INDEX, WEIGHT), FORWARD)
    assert set(_FORWARD_CALLS) == {(2, 3)}


def test_a_program_for_another_platform_has_no_kernel() -> None:
    here = jax.default_backend()
    for platforms, times in ((("elsewhere",), 1.0), ((here, "elsewhere"), FORWARD), (None, FORWARD)):
        op = operation(platforms=platforms)
        assert_same(jax.jit(op)(IMAGES, INDEX, WEIGHT), plain(IMAGES, INDEX, WEIGHT), times)
        gradients = jax.grad(lambda *a, op=op: total(op, *a), argnums=(0, 1))(IMAGES, WEIGHT)
        expected = jax.grad(plain_total, argnums=(0, 1))(IMAGES, WEIGHT)
        assert_same(gradients, expected, 1.0 if times == 1.0 else BACKWARD)


def test_an_exported_program_has_no_kernel() -> None:
    """An exported program runs on machines that do not have the kernels."""
    op = operation()
    exported = jax.export.export(jax.jit(op))(IMAGES, INDEX, WEIGHT)
    assert_same(exported.call(IMAGES, INDEX, WEIGHT), plain(IMAGES, INDEX, WEIGHT))
    gradient = jax.jit(jax.grad(lambda *a: total(op, *a), argnums=(0, 1)))
    exported = jax.export.export(gradient)(IMAGES, WEIGHT)
    assert_same(exported.call(IMAGES, WEIGHT), jax.grad(plain_total, argnums=(0, 1))(IMAGES, WEIGHT))


# Batching (`vmap`).


def test_mapped_images_are_one_call() -> None:
    op = operation()
    images = jnp.stack([IMAGES, IMAGES + 1, IMAGES - 1], axis=1)  # the mapped axis is not the first
    mapped = jax.vmap(op, in_axes=(1, None, None))(images, INDEX, WEIGHT)
    expected = jax.vmap(plain, in_axes=(1, None, None))(images, INDEX, WEIGHT)
    assert_same(mapped, expected, FORWARD)
    assert set(_FORWARD_CALLS) == {(6, 3)}


def test_images_that_are_not_mapped_are_repeated_beside_those_that_are() -> None:
    def shifted(images: Array, shifts: Array) -> Arrays:
        return (images + shifts,)

    def kernel(images: Array, shifts: Array) -> Arrays:
        _FORWARD_CALLS.append(images.shape)
        assert images.shape == shifts.shape
        return (FORWARD * (images + shifts),)

    shifts = jnp.stack([IMAGES, 2 * IMAGES, 3 * IMAGES])
    for axes, arrays in (((None, 0), (IMAGES, shifts)), ((0, None), (shifts, IMAGES))):
        op = operation(plain=shifted, forward=kernel, backward=None, batched=(0, 1), name=str(axes))
        assert_same(jax.vmap(op, in_axes=axes)(*arrays), (shifts + IMAGES,), FORWARD)
        assert set(_FORWARD_CALLS) == {(6, 3)}


def test_mapped_weights_are_one_call_after_the_other() -> None:
    op = operation()
    weights = jnp.stack([WEIGHT, 2 * WEIGHT, -WEIGHT], axis=1)
    for axis, images in ((None, IMAGES), (0, jnp.stack([IMAGES, IMAGES + 1, IMAGES - 1]))):
        _FORWARD_CALLS.clear()
        axes = (axis, None, 1)
        mapped = jax.vmap(op, in_axes=axes)(images, INDEX, weights)
        assert_same(mapped, jax.vmap(plain, in_axes=axes)(images, INDEX, weights), FORWARD)
        assert set(_FORWARD_CALLS) == {(2, 3)}


def test_gradients_of_mapped_images_and_weights_are_those_of_the_backward_kernel() -> None:
    op = operation()
    images, weights = jnp.stack([IMAGES, IMAGES + 1]), jnp.stack([WEIGHT, -WEIGHT])
    for axes, arrays in (((0, None), (images, WEIGHT)), ((None, 0), (IMAGES, weights)), ((0, 0), (images, weights))):
        gradients = jax.vmap(jax.grad(lambda *a: total(op, *a), argnums=(0, 1)), in_axes=axes)(*arrays)
        assert_same(gradients, jax.vmap(jax.grad(plain_total, argnums=(0, 1)), in_axes=axes)(*arrays), BACKWARD)


# Derivatives.


@eager_and_compiled
def test_gradients_are_those_of_the_backward_kernel(compiled: bool) -> None:
    op = operation()
    gradient = jax.value_and_grad(lambda *a: total(op, *a), argnums=(0, 1))
    value, gradients = (jax.jit(gradient) if compiled else gradient)(IMAGES, WEIGHT)
    assert_same(value, plain_total(IMAGES, WEIGHT), FORWARD)
    assert_same(gradients, jax.grad(plain_total, argnums=(0, 1))(IMAGES, WEIGHT), BACKWARD)
    assert set(_BACKWARD_CALLS) == {(2, 3)}


def test_the_gradient_of_some_arrays_is_that_of_the_backward_kernel() -> None:
    op = operation()
    for which in (0, 1):
        gradient = jax.grad(lambda *a: total(op, *a), argnums=which)(IMAGES, WEIGHT)
        assert_same(gradient, jax.grad(plain_total, argnums=which)(IMAGES, WEIGHT), BACKWARD)


def test_the_gradient_of_one_result_takes_zeros_for_the_other() -> None:
    op = operation()
    gradient = jax.grad(lambda images: jnp.sum(op(images, INDEX, WEIGHT)[1]))(IMAGES)
    assert_same(gradient, 2 * IMAGES * WEIGHT, BACKWARD)


def test_without_a_backward_kernel_values_and_gradient_are_those_of_the_plain_function() -> None:
    op = operation(backward=None)
    assert_same(total(op, IMAGES, WEIGHT), plain_total(IMAGES, WEIGHT), FORWARD)
    value, gradients = jax.value_and_grad(lambda *a: total(op, *a), argnums=(0, 1))(IMAGES, WEIGHT)
    assert_same(value, plain_total(IMAGES, WEIGHT))
    assert_same(gradients, jax.grad(plain_total, argnums=(0, 1))(IMAGES, WEIGHT))


def test_integers_have_no_cotangent() -> None:
    op = operation()
    for gradients in (
        fused_operation.backward(op, (IMAGES, INDEX, WEIGHT), ALL_ONES),
        op.plain_backward((IMAGES, INDEX, WEIGHT), ALL_ONES),
    ):
        assert [gradient.shape for gradient in gradients] == [IMAGES.shape, WEIGHT.shape]
    _, pull_back = jax.vjp(op, IMAGES, INDEX, WEIGHT)
    _, of_index, _ = pull_back(ALL_ONES)
    assert of_index.dtype == jax.dtypes.float0


def test_forward_mode_is_that_of_the_plain_function() -> None:
    op = operation()
    directions = (jnp.cos(IMAGES), jnp.sin(WEIGHT))
    value, tangent = jax.jvp(lambda *a: total(op, *a), (IMAGES, WEIGHT), directions)
    _, expected = jax.jvp(plain_total, (IMAGES, WEIGHT), directions)
    assert_same(value, plain_total(IMAGES, WEIGHT), FORWARD)
    assert_same(tangent, expected)
    mapped = jax.vmap(lambda along: jax.jvp(lambda w: total(op, IMAGES, w), (WEIGHT,), (along,))[1])(jnp.eye(3))
    assert_same(mapped, jax.grad(plain_total, argnums=1)(IMAGES, WEIGHT))
    assert not _BACKWARD_CALLS


@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
def test_second_derivatives_are_those_of_the_plain_function(outer: Callable[..., Any]) -> None:
    op = operation()
    hessian = outer(jax.grad(lambda *a: total(op, *a), argnums=(0, 1)), argnums=(0, 1))
    assert_same(hessian(IMAGES, WEIGHT), jax.hessian(plain_total, argnums=(0, 1))(IMAGES, WEIGHT))


# Recorded calls.


def test_calls_on_concrete_arrays_are_observed() -> None:
    op, other = operation(), operation(name="other")
    arrays = (IMAGES, INDEX, WEIGHT)
    with fused_operation.observed() as calls:
        results = op(*arrays)
        other(results[0], INDEX, WEIGHT)
        fused_operation.backward(op, arrays, ALL_ONES)
        with jax.disable_jit():
            jax.jit(op)(*arrays)
    op(*arrays)
    assert [called.name for called, _ in calls] == ["made_up", "other", "made_up"]
    assert_same(calls[0][1], arrays)
    assert_same(calls[1][1], (results[0], INDEX, WEIGHT))
