"""Comparison of a fused implementation with the plain one, on a small network with random parameters."""

import concurrent.futures
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import fused_operation, plain
from seemore_jax.network.implementations.fused_operation import FusedOperation
from seemore_jax.network.layers import gelu
from seemore_jax.network.seemore import SeemoReNetwork
from seemore_jax.system.devices import compiling_for

# Largest relative difference, in the Euclidean norm, of the values and of each gradient. A kernel that leaves out one
# tap or one row differs by more than a hundredth.
_TOLERANCES = {"float32": 2e-4, "bfloat16": 5e-2}
# Height and width of the compared images: odd, and large enough for several strips and chunks.
_SIZE = (53, 21)
_GAIN = 2.0  # logit of the expert that an image chooses; the logits of the others are 0


def compare(
    apply_network: Callable[..., Any], config: SeemoReConfig, device: jax.Device, *, gradients: bool
) -> tuple[dict[str, float], str]:
    """Compares the values of an implementation, and its gradients, with those of the plain implementation.

    Args:
      apply_network: function of the implementation, as `plain.apply_network`.
      config: configuration of the small network.
      device: device that computes both implementations.
      gradients: whether to compare the gradients of all parameters and of the images, too.

    Returns:
      The largest relative difference of the values and, if they were compared, of the gradients; and a message that
      names the block with too large a difference, an empty string if there is none.
    """
    graph, shapes = nnx.split(SeemoReNetwork.abstract(config))
    random = np.random.default_rng(0)
    parameters = jax.tree_util.tree_map_with_path(lambda path, leaf: _random(random, path, leaf), shapes)
    images = _images(random, config.num_experts)
    directions = random.standard_normal((*images.shape[:1], *(config.scale * side for side in _SIZE), 3))

    def results(apply: Callable[..., Any], parameters: nnx.State, lr: Array, direction: Array) -> Any:
        def along(parameters: nnx.State, lr: Array) -> tuple[Array, Any]:
            sr, routing = apply(nnx.merge(graph, parameters), lr)
            return jnp.vdot(sr, direction), (sr, routing.experts)

        if not gradients:
            return *along(parameters, lr)[1], ()
        of_both, (sr, experts) = jax.grad(along, argnums=(0, 1), has_aux=True)(parameters, lr)
        return sr, experts, of_both

    def expected(parameters: nnx.State, lr: Array, direction: Array) -> Any:
        model = nnx.merge(graph, parameters)
        _fit_router(model, lr)
        fitted = nnx.split(model)[1]
        return fitted, results(plain.apply_network, fitted, lr, direction)

    with jax.default_device(device), jax.disable_jit(False):
        arrays = jax.device_put((images, directions.astype(np.float32)))
        functions = expected, functools.partial(results, apply_network)
        compute_expected, compute = _compiled(functions, (parameters, *arrays), device)
        fitted, theirs = compute_expected(parameters, *arrays)
        mine = compute(fitted, *arrays)
        figures, differs = _differences(mine, theirs, _TOLERANCES[config.compute_dtype])
        if not differs:
            return figures, ""
        return figures, _blame(apply_network, nnx.merge(graph, fitted), arrays[0], figures, gradients)


def _compiled(
    functions: Sequence[Callable[..., Any]], arguments: tuple[Any, ...], device: jax.Device
) -> list[jax.stages.Compiled]:
    """Compiles several functions of the same arguments at the same time."""
    if device.platform != "cpu":
        lowered, options = [jax.jit(function).lower(*arguments) for function in functions], None
    else:
        # The compilation takes most of the time. XLA's depthwise convolutions, which a TPU uses, compile faster
        # than the sums of shifted products for a CPU. Machine code without optimization compiles faster, too. Both are
        # fast enough for a few small images.
        with compiling_for("tpu"):
            lowered = [jax.jit(function).lower(*arguments) for function in functions]
        options = {"xla_backend_optimization_level": 0}
    with concurrent.futures.ThreadPoolExecutor() as threads:
        return list(threads.map(lambda program: program.compile(options), lowered))


def _random(random: np.random.Generator, path: Any, leaf: jax.ShapeDtypeStruct) -> Float[np.ndarray, "..."]:
    """Returns a parameter with PyTorch's default initialisation; the scales of a LayerNorm are near 1."""
    bound = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
    centre = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
    return (centre + random.uniform(-bound, bound, leaf.shape)).astype(leaf.dtype)


def _images(random: np.random.Generator, count: int) -> Float[np.ndarray, "n h w 3"]:
    """Returns one image for each expert. Each has its own colour, so that the router can distinguish them."""
    colours = random.uniform(0, 1, (max(count, 2), 1, 1, 3))
    return (0.5 * colours + 0.5 * random.uniform(0, 1, (len(colours), *_SIZE, 3))).astype(np.float32)


def _fit_router(model: SeemoReNetwork, lr: Float[Array, "n h w 3"]) -> None:
    """Sets the weights of the router, by least squares, so that each image chooses a different expert."""
    group = model.groups[0].rank_modulating
    block = group.mixture_block
    features, _ = block.split(block.embed(group.norm_1(model.extract(lr))))
    features = gelu(block.local(features))
    pooled = jnp.mean(features, axis=(1, 2), dtype=jnp.float32)
    product = jnp.matmul(pooled, pooled.T, precision="highest")
    ridge = 1e-6 * jnp.trace(product) * jnp.eye(len(product), dtype=jnp.float32)  # for more experts than channels
    wanted = _GAIN * jnp.eye(len(product), model.config.num_experts, dtype=jnp.float32)
    kernel = jnp.matmul(pooled.T, jnp.linalg.solve(product + ridge, wanted), precision="highest")
    block.mixture.router.linear.kernel[...] = jax.lax.stop_gradient(kernel)


def _differences(mine: Any, theirs: Any, tolerance: float) -> tuple[dict[str, float], bool]:
    """Returns the largest relative differences of values and of gradients, and whether one of them is too large."""
    (sr, experts, gradients), (expected_sr, expected_experts, expected_gradients) = mine, theirs
    norms = [float(np.linalg.norm(leaf)) for leaf in jax.tree.leaves(expected_gradients)]
    # A gradient that is nearly zero is compared with the norm of the largest one.
    negligible = 1e-4 * float(np.max(norms, initial=0.0))
    differences = [
        float(np.linalg.norm(np.asarray(leaf) - np.asarray(reference)) / max(norm, negligible))
        for leaf, reference, norm in zip(
            jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), norms, strict=True
        )
    ]
    figures = {"values": _relative(sr, expected_sr)}
    if differences:
        figures["gradients"] = float(np.max(differences))
    routed_alike = bool(np.array_equal(experts, expected_experts))
    # The comparison is false for NaN, so that NaN is a difference.
    return figures, not (routed_alike and all(figure <= tolerance for figure in figures.values()))


def _relative(mine: Any, theirs: Any) -> float:
    """Returns the relative difference in the Euclidean norm; infinity if there is NaN, which a maximum would drop."""
    mine, theirs = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
    difference = float(np.linalg.norm(mine - theirs) / max(float(np.linalg.norm(theirs)), 1e-30))
    return difference if np.isfinite(difference) else float("inf")


# The search for the block that differs.


def _blame(
    apply_network: Callable[..., Any], model: SeemoReNetwork, lr: Array, figures: dict[str, float], gradients: bool
) -> str:
    """Returns a message with the block that differs most from its plain function, on its arrays in the network."""
    with fused_operation.observed() as calls, jax.disable_jit():
        apply_network(model, lr)
    found = [(*_difference_of(operation, arrays, gradients), operation.name) for operation, arrays in calls]
    worst, what, name = max(found, default=(0.0, "", ""))
    tolerance = _TOLERANCES[model.config.compute_dtype]
    if worst < tolerance:  # no single block differs too much
        worst, what = max((figure, what) for what, figure in figures.items())
        if worst < tolerance:
            return "the router chooses other experts than the plain one"
        return f"the {what} of the network differ from the plain ones by {worst:.1e}, relative,"
    return f"the {what} of {name} differ from the plain ones by {worst:.1e}, relative,"


def _difference_of(operation: FusedOperation, arrays: tuple[Array, ...], gradients: bool) -> tuple[float, str]:
    """Returns the largest relative difference between an operation's kernels and its plain function.

    Outside of the valid region, the plain function returns zeros, and the kernels return arbitrary values.
    """
    expected = jax.jit(operation.plain)(*arrays)
    results = [jnp.where(other != 0, mine, 0) for mine, other in zip(operation(*arrays), expected, strict=True)]
    differences = [(max(map(_relative, results, expected)), "values")]
    if gradients:
        waves = [
            jnp.where(result != 0, jnp.cos(jnp.arange(result.size, dtype=result.dtype)).reshape(result.shape), 0)
            for result in expected
        ]
        expected_gradients = jax.jit(operation.plain_backward)(arrays, tuple(waves))
        relative = map(_relative, fused_operation.backward(operation, arrays, tuple(waves)), expected_gradients)
        differences.append((max(relative), "gradients"))
    return max(differences)
