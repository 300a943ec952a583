"""The self-check: a fused implementation is compared with the plain one where it is used for the first time.

A small network with the widths and types of the real one computes a batch of odd size, in which every expert is chosen,
under both implementations: values, and gradients of all parameters and of the images. The verdict is kept in the user's
cache for the kind of device, the implementation, the sources and the versions.
"""

import concurrent.futures
import contextvars
import dataclasses
import functools
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import fused_operation, native, plain
from seemore_jax.network.implementations.fused_operation import FusedOperation
from seemore_jax.network.layers import gelu
from seemore_jax.network.seemore import SeemoReNetwork
from seemore_jax.system.devices import compiling_for
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import atomic_write, user_cache

_LOG = logging.getLogger(__name__)
# The largest relative difference, in the Euclidean norm, of the result and of each gradient. A kernel that leaves out
# one tap or one row differs by more than a hundredth.
_TOLERANCES = {"float32": 2e-4, "bfloat16": 5e-2}
# Height and width of the compared images: odd, and large enough for several strips and chunks.
_SIZE = (53, 21)
_MOST_REDUCTIONS = 1  # the others would need larger images, and have no kernels
_GAIN = 2.0  # logit of an image's own expert; that of the others is 0
_SECONDS_TO_AGREE = 600
_LOCK = threading.Lock()
# Whether this thread runs a comparison. It has to use the implementation that is being checked.
_CHECKING: contextvars.ContextVar[bool] = contextvars.ContextVar("checking", default=False)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the self-check of an implementation found.

    Attributes:
      passed: whether the implementation may be used.
      device: the kind of device that it was compared on.
      figures: largest relative difference of the values and, where they were compared, of the gradients.
      reason: which block differs and how far, or what the implementation raised; empty if it passed.
      seconds: what the check took.
    """

    passed: bool
    device: str
    figures: dict[str, float]
    reason: str
    seconds: float


def is_usable(name: str, apply_network: Callable[..., Any], config: SeemoReConfig, *, gradients: bool) -> bool:
    """Whether an implementation passed the self-check; the arguments are those of `verdict`.

    Raises:
      InputError: it did not, and `config` asks for it by name.
    """
    if _CHECKING.get():
        return True
    found = verdict(name, apply_network, config, gradients=gradients)
    if not found.passed and config.implementation != "auto":
        raise InputError(f"implementation={name}: {refusal(name, found)}, and set implementation='plain'")
    return found.passed


def verdict(name: str, apply_network: Callable[..., Any], config: SeemoReConfig, *, gradients: bool) -> Verdict:
    """The verdict on an implementation for networks like `config`, from the cache or by a comparison.

    It may be called while a program is traced: the comparison runs in a thread of its own, which JAX traces separately.
    On several hosts all processes call it, and all get the verdict of one that failed, if any did.

    Args:
      name: of the implementation.
      apply_network: as `plain.apply_network`.
      config: of the network that is to be computed.
      gradients: whether gradients are compared as well as values.
    """
    with _LOCK:
        return _verdict(name, apply_network, _checked_config(config), gradients)


@functools.cache
def _verdict(name: str, apply_network: Callable[..., Any], config: SeemoReConfig, gradients: bool) -> Verdict:
    device = _device(name)
    if os.environ.get("SEEMORE_SELF_CHECK") == "0":
        found = Verdict(True, device_kind(device), {}, "", 0.0)
    else:
        key = _key(name, config, device, gradients)
        found = _read(key) or _compared(apply_network, config, device, gradients, key)
    if jax.process_count() > 1:
        found = _agreed(config, gradients, found)
    if not found.passed:
        _LOG.warning(refusal(name, found))
    return found


def refusal(name: str, found: Verdict) -> str:
    """One line on an implementation that failed its check."""
    return (
        f"the {name} kernels are not used: {found.reason} on {found.device}; please report it with the output of "
        "python -m seemore_jax doctor"
    )


def device_kind(device: jax.Device) -> str:
    """The kind of device that a verdict holds for, such as "cpu" with the processor's name."""
    return f"{device.platform} {native.cpu_name()}" if device.platform == "cpu" else device.device_kind


def _device(name: str) -> jax.Device:
    return jax.local_devices(backend="cpu")[0] if name == "cpu" else jax.local_devices()[0]


def _checked_config(config: SeemoReConfig) -> SeemoReConfig:
    """What of a network the check depends on: kernels do not depend on the number of layers, say."""
    recursive = min(config.recursive, _MOST_REDUCTIONS)
    return dataclasses.replace(
        config, scale=2, img_range=1.0, num_layers=1, recursive=recursive, rematerialize=False, implementation="plain"
    )


# The cache.


def _key(name: str, config: SeemoReConfig, device: jax.Device, gradients: bool) -> str:
    """The name of the file that keeps a verdict. It depends on everything that the verdict depends on."""
    versions = [jax.__version__, jaxlib.__version__, device.client.platform_version]
    kernels = native.identity() if name == "cpu" else ""
    identity = [name, dataclasses.asdict(config), gradients, device_kind(device), _sources(), kernels, *versions]
    return f"{name}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]}"


@functools.cache
def _sources() -> str:
    """A digest of the network's sources, kernels included."""
    folder = Path(__file__).parents[1]
    files = sorted(file for suffix in ("py", "cc", "h") for file in folder.rglob(f"*.{suffix}"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _file(key: str) -> Path:
    return user_cache("checks") / f"{key}.json"


def _read(key: str) -> Verdict | None:
    try:
        return Verdict(**json.loads(_file(key).read_text()))
    except (OSError, RuntimeError, ValueError, TypeError):  # there is none, or a damaged one
        return None


def _write(key: str, found: Verdict) -> None:
    try:
        with atomic_write(_file(key)) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(found)) + "\n")
    except (OSError, RuntimeError) as error:  # the next process checks again
        _LOG.debug("the verdict cannot be kept: %s", error)


# The comparison.


def _compared(
    apply_network: Callable[..., Any], config: SeemoReConfig, device: jax.Device, gradients: bool, key: str
) -> Verdict:
    with concurrent.futures.ThreadPoolExecutor(1, "self-check") as thread:
        start = time.monotonic()
        try:
            figures, reason = thread.submit(_compare, apply_network, config, device, gradients).result()
        except Exception as error:  # whatever a compiler or a driver raises; it may not happen again, so is not kept
            detail = " ".join(str(error).split())[:300] or type(error).__name__
            return Verdict(False, device_kind(device), {}, f"they fail ({detail})", time.monotonic() - start)
    found = Verdict(not reason, device_kind(device), figures, reason, time.monotonic() - start)
    _write(key, found)
    return found


def _compare(
    apply_network: Callable[..., Any], config: SeemoReConfig, device: jax.Device, gradients: bool
) -> tuple[dict[str, float], str]:
    """The largest differences, and which block differs too far; an empty string if none does."""

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

    _CHECKING.set(True)  # in this thread
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
    """Compiles several functions of the same arguments at once."""
    if device.platform != "cpu":
        lowered, options = [jax.jit(function).lower(*arguments) for function in functions], None
    else:
        # Compiling takes most of the time. XLA's own depthwise convolutions, which other devices get, compile in less
        # time than the CPU's, and so does unoptimized machine code. Both are fast enough for a few small images.
        with compiling_for("gpu"):
            lowered = [jax.jit(function).lower(*arguments) for function in functions]
        options = {"xla_backend_optimization_level": 0}
    with concurrent.futures.ThreadPoolExecutor() as threads:
        return list(threads.map(lambda program: program.compile(options), lowered))


def _random(random: np.random.Generator, path: Any, leaf: jax.ShapeDtypeStruct) -> Float[np.ndarray, "..."]:
    """A parameter: PyTorch's default initialisation, and near 1 for the scale of a LayerNorm."""
    bound = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
    centre = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
    return (centre + random.uniform(-bound, bound, leaf.shape)).astype(leaf.dtype)


def _images(random: np.random.Generator, count: int) -> Float[np.ndarray, "n h w 3"]:
    """An image for each expert, each of a colour of its own, so that the router can tell them apart."""
    colours = random.uniform(0, 1, (max(count, 2), 1, 1, 3))
    return (0.5 * colours + 0.5 * random.uniform(0, 1, (len(colours), *_SIZE, 3))).astype(np.float32)


def _fit_router(model: SeemoReNetwork, lr: Float[Array, "n h w 3"]) -> None:
    """Sets the router's weights such that each image chooses an expert of its own: those of least squares."""
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
    """The largest relative difference of values and of gradients, and whether anything differs too far."""
    (sr, experts, gradients), (expected_sr, expected_experts, expected_gradients) = mine, theirs
    norms = [float(np.linalg.norm(leaf)) for leaf in jax.tree.leaves(expected_gradients)]
    negligible = 1e-4 * float(
        np.max(norms, initial=0.0)
    )  # a gradient that is nearly zero is compared with the others' size
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
    # Written so that NaN differs.
    return figures, not (routed_alike and all(figure <= tolerance for figure in figures.values()))


def _relative(mine: Any, theirs: Any) -> float:
    mine, theirs = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
    difference = float(np.linalg.norm(mine - theirs) / max(float(np.linalg.norm(theirs)), 1e-30))
    return difference if np.isfinite(difference) else float("inf")  # NaN would be lost in a maximum


# Which block it is, when the whole differs.


def _blame(
    apply_network: Callable[..., Any], model: SeemoReNetwork, lr: Array, figures: dict[str, float], gradients: bool
) -> str:
    """Names the block whose kernels are furthest from its plain function, on the arrays that it gets in the network."""
    with fused_operation.observed() as calls, jax.disable_jit():
        apply_network(model, lr)
    found = [(*_difference_of(operation, arrays, gradients), operation.name) for operation, arrays in calls]
    worst, what, name = max(found, default=(0.0, "", ""))
    tolerance = _TOLERANCES[model.config.compute_dtype]
    if worst < tolerance:  # no block by itself
        worst, what = max((figure, what) for what, figure in figures.items())
        if worst < tolerance:
            return "the router chooses other experts than the plain one"
        return f"the {what} of the network differ from the plain ones by {worst:.1e}, relative,"
    return f"the {what} of {name} differ from the plain ones by {worst:.1e}, relative,"


def _difference_of(operation: FusedOperation, arrays: tuple[Array, ...], gradients: bool) -> tuple[float, str]:
    """The largest relative difference between an operation's kernels and its plain function.

    Beyond the image, the plain function gives zeros, and kernels anything.
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


# Several hosts.


def announce_plain(config: SeemoReConfig) -> None:
    """Lets the other processes know that this one has no kernels, so that all take the plain implementation."""
    if jax.process_count() > 1:
        reason = "there are no kernels"
        _announce(_checked_config(config), False, Verdict(False, device_kind(jax.local_devices()[0]), {}, reason, 0.0))


def _announce(config: SeemoReConfig, gradients: bool, mine: Verdict) -> str:
    """Leaves this process's verdict where the others read it, and returns the folder."""
    from seemore_jax.system.processes import coordination_client

    folder = f"seemore/checks/{hashlib.sha256(f'{config} {gradients}'.encode()).hexdigest()[:16]}"
    text = json.dumps(dataclasses.asdict(mine))
    coordination_client().key_value_set(f"{folder}/{jax.process_index()}", text, allow_overwrite=True)
    return folder


def _agreed(config: SeemoReConfig, gradients: bool, mine: Verdict) -> Verdict:
    """The first verdict, by number of process, that is a failure; this process's own if none is.

    Raises:
      RuntimeError: another process has not called the network: on several hosts, all processes call it.
    """
    from seemore_jax.system.processes import coordination_client

    folder = _announce(config, gradients, mine)
    for other in range(jax.process_count()):
        try:
            text = coordination_client().blocking_key_value_get(f"{folder}/{other}", 1000 * _SECONDS_TO_AGREE)
        except Exception as error:
            raise RuntimeError(
                f"process {other} has not called the network within {_SECONDS_TO_AGREE} s, and all processes have to "
                "take the same implementation; call it on all of them, or set implementation='plain'"
            ) from error
        found = Verdict(**json.loads(text))
        if not found.passed:
            return dataclasses.replace(found, reason=f"on process {other}, {found.reason}")
    return mine
