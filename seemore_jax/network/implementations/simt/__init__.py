"""Kernels for NVIDIA GPUs, and the JAX operation that launches one.

One source (`*.h`) has two compilers. On a GPU, NVRTC compiles it to PTX (`device`), which XLA launches. On a CPU, the
C++ compiler makes a function of it that computes the same, slowly (`host`); tests of the kernels run there.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxtyping import Array

from seemore_jax.network.implementations.simt import device, host
from seemore_jax.network.implementations.simt.variants import Variant


def launch(
    variant: Variant,
    arrays: Sequence[Array],
    results: Sequence[jax.ShapeDtypeStruct],
    *,
    grid: tuple[int, int, int],
    sizes: Sequence[int],
    summary: Sequence[int] = (),
) -> tuple[Array, ...]:
    """Launches a kernel: on a GPU, or on a CPU by the C++ compiler.

    Args:
      variant: the kernel.
      arrays: its arrays after the sizes.
      results: shapes of its results.
      grid: numbers of blocks.
      sizes: height and width of the arrays of the feature maps; for "routing", the number of tiles and 1.
      summary: height and width of the array of the summary; for "routing", then those of the reduced context.

    Returns:
      The results.
    """
    all_sizes = jnp.asarray(np.array([*sizes, *grid, *summary], np.int32))
    shapes = tuple((result.shape, jnp.dtype(result.dtype).name) for result in results)
    return tuple(_LAUNCH.bind(all_sizes, *arrays, variant=variant, grid=grid, shapes=shapes))


# The operation.


def _on_gpu(*arrays: Array, variant: Variant, grid: tuple[int, int, int], shapes: Any) -> Sequence[Array]:
    return device.call(variant, grid, _structs(shapes))(*arrays)


def _on_cpu(*arrays: Array, variant: Variant, grid: tuple[int, int, int], shapes: Any) -> Sequence[Array]:
    del grid  # it is in the sizes
    return jax.ffi.ffi_call(host.registered(variant), _structs(shapes))(*arrays)


def _structs(shapes: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes)


_LAUNCH = Primitive("gpu_kernel")
_LAUNCH.multiple_results = True


@_LAUNCH.def_impl
def _evaluate(*arrays: Array, **parameters: object) -> Sequence[Array]:
    return jax.jit(functools.partial(_LAUNCH.bind, **parameters))(*arrays)


@_LAUNCH.def_abstract_eval
def _abstract(*arrays: object, shapes: Any, **_: object) -> list[jax.core.ShapedArray]:
    return [jax.core.ShapedArray(shape, jnp.dtype(dtype)) for shape, dtype in shapes]


mlir.register_lowering(_LAUNCH, mlir.lower_fun(_on_gpu, multiple_results=True), platform="cuda")
mlir.register_lowering(_LAUNCH, mlir.lower_fun(_on_cpu, multiple_results=True), platform="cpu")
