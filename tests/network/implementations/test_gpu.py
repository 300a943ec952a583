"""If these tests fail, the GPU's kernels, here compiled for a CPU, differ from the plain network, or are not selected.

The same source is compiled for GPUs. What is not tested here are its four instructions in assembler, and barriers:
tests/native/test_gpu_kernels.py looks for missing ones.
"""

import dataclasses
import logging
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seemore_jax import SeemoRe, SeemoReConfig
from seemore_jax.network import implementations
from seemore_jax.network.implementations import comparison, gpu, gpu_operations, gpu_weights, plain, self_check
from seemore_jax.network.implementations.fused_operation import FusedOperation
from seemore_jax.network.implementations.simt import device, variants
from seemore_jax.network.valid_region import ValidRegion
from seemore_jax.system.devices import compiling_for

pytestmark = pytest.mark.usefixtures("grouped_convolutions")
needs_kernels = pytest.mark.needs("compiler")
SMALL = SeemoReConfig.variant("T", 2, embedding_dim=10, num_layers=1, recursive=1, global_kernel_size=5)
# Machine code without optimization compiles in half the time.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


def _arrays(name: str, channels: int, dtype: str, shape: tuple[int, int, int], length: int) -> list[jax.Array]:
    """Returns random arrays of an operation, for images whose valid region is a part of their arrays.

    There are three experts. The layer is the second of two.
    """
    random = np.random.default_rng(0)

    def weights(*shape: int, fan_in: int) -> jax.Array:
        return jnp.asarray(random.uniform(-1, 1, shape) / np.sqrt(fan_in), jnp.float32)

    n, height, width = shape
    c = channels
    valid = ValidRegion.part(height - 2, width - 3, 0, height - 2, 1, height - 4)
    small = max(1, (height - 2) // 4), max(1, (width - 3) // 4)
    x = [jnp.asarray(3 + random.standard_normal((*shape, c)), dtype) for _ in range(3)]
    norm = [1 + 0.1 * weights(c, fan_in=1), weights(c, fan_in=1)]
    expand = [weights(2, c, c, fan_in=c), weights(2 * c, fan_in=c)]
    square = [weights(c, c, fan_in=c), weights(c, fan_in=c)]

    def filters(size: int) -> list[jax.Array]:
        return [weights(size, c, fan_in=size), weights(c, fan_in=size)]

    def maps(height: int, width: int) -> jax.Array:
        return jnp.asarray(random.standard_normal((n, height, width, c)), dtype)

    region = gpu_operations.region_of(valid, small)
    if name == "routing":
        tiles = jnp.asarray(random.standard_normal((n, 5, c)), jnp.float32)
        reduced = maps(height, width) if length else maps(height // 4 + 1, width // 4 + 1)
        router = 99 * weights(c, 3, fan_in=c)
        return [region, tiles, reduced, router, *filters(16), *filters(9), *square]
    positions = [
        *gpu.resize_positions(height, jnp.int32(small[0]), valid.image_height, valid.first_row),
        *gpu.resize_positions(width, jnp.int32(small[1]), valid.width, jnp.int32(0)),
    ]
    # The images choose different experts; two experts of the second one are equally probable.
    probabilities = jnp.asarray([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])
    rank = size = max(length, 1)
    down = [weights(3, c, rank, fan_in=c), weights(3, rank, fan_in=c)]
    convolution = [weights(9, c, c, fan_in=9 * c), weights(c, fan_in=9)]
    maps_and_weights: dict[str, tuple[list[jax.Array], list[jax.Array]]] = {
        "embedding": (
            [x[0]],
            [*norm, *convolution, *expand, *filters(3), *filters(3), *filters(16)],
        ),
        "experts": (
            [*x, maps(height // 4 + 1, width // 4 + 1), *positions, probabilities],
            [*down, *down, weights(3, rank, c, fan_in=rank), weights(3, c, fan_in=rank), *square],
        ),
        "feed_forward": ([x[0]], [*norm, *expand, *filters(9), *square]),
        "enhancement": ([x[0]], [*norm, *expand, *filters(size), *filters(size), *square]),
    }
    of_image, of_layer = maps_and_weights[name]
    return [region, jnp.int32(1), *of_image, *of_layer, *_arranged(name, of_layer, dtype)]


def _arranged(name: str, weights: list[jax.Array], dtype: str) -> tuple[jax.Array, ...]:
    """Returns the arranged weights of two layers. Those of the first are NaN, so that the kernel must not use them."""
    right, wrong = tuple(weights), tuple(jnp.nan * array for array in weights)
    group = gpu_weights.weights_of_group(SeemoRe(SMALL, rngs=nnx.Rngs(0)).groups[0])
    if name == "feed_forward":
        groups = [group._replace(feed_forward_1=wrong, feed_forward_2=right)]
    else:
        groups = [group._replace(**{name: layer}) for layer in (wrong, right)]
    return getattr(gpu_weights.arranged(groups, dtype), name)


def _operation(name: str, length: int, topk: int) -> FusedOperation:
    if name == "routing":
        return gpu_operations.routing_operation(length > 0)
    return gpu_operations.experts_operation(topk) if name == "experts" else gpu_operations.OPERATIONS[name]


def _comparable(name: str, results: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Returns results of an operation; tiles, and so their sums, are not the same for all types."""
    if name != "embedding":
        return results
    features, context, sums, reduced = results
    return features, context, jnp.sum(sums, axis=1), reduced


def _wide(arrays: list[jax.Array]) -> list[jax.Array]:
    return [array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array for array in arrays]


@needs_kernels
@pytest.mark.parametrize(
    ("name", "channels", "length", "dtype"),
    [
        ("embedding", 36, 0, "bfloat16"),
        ("embedding", 7, 0, "float32"),
        ("experts", 36, 8, "float32"),
        ("experts", 7, 19, "bfloat16"),  # the two most probable experts
        ("routing", 36, 1, "bfloat16"),  # with one more reduction
        ("routing", 7, 0, "float32"),
        ("feed_forward", 36, 0, "float32"),
        ("feed_forward", 72, 0, "bfloat16"),  # more channels than a warp computes at once
        ("enhancement", 48, 11, "bfloat16"),
        ("enhancement", 33, 35, "float32"),  # a filter for which there is room for one line at a time only
    ],
)
def test_each_kernel_computes_what_its_function_in_jax_computes(
    name: str, channels: int, length: int, dtype: str
) -> None:
    """The sizes are odd, and the valid region ends inside of the arrays."""
    operation = _operation(name, length, topk=1 if channels == 36 else 2)
    arrays = _arrays(name, channels, dtype, (2, 21, 19), length)
    plain = jax.jit(operation.plain, compiler_options=_COMPILER_OPTIONS)
    exact, computed = (_comparable(name, results) for results in (plain(*_wide(arrays)), operation(*arrays)))
    inside = [expected != 0 for expected in exact]
    results = [np.where(where, result, 0) for where, result in zip(inside, computed, strict=True)]
    assert all(np.isfinite(np.asarray(result, np.float32)).all() for result in computed)
    if dtype == "float32":
        for result, expected in zip(results, exact, strict=True):
            np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5 * max(1.0, float(jnp.abs(expected).max())))
        return
    rounded = _comparable(name, plain(*arrays))
    for result, plainly, expected in zip(results, rounded, exact, strict=True):
        mine, theirs = (np.linalg.norm(np.asarray(values, np.float32) - expected) for values in (result, plainly))
        assert mine <= max(1.05 * theirs, 1e-6 * np.linalg.norm(expected))


def _computed(config: SeemoReConfig, lr: jax.Array, size: tuple[int, int]) -> Any:
    graph, parameters = nnx.split(SeemoRe(config, rngs=nnx.Rngs(3)))

    def upscale(parameters: nnx.State, lr: jax.Array) -> Any:
        return nnx.merge(graph, parameters)(lr, size=jnp.asarray(size), return_routing=True)

    return jax.jit(upscale, compiler_options=_COMPILER_OPTIONS)(parameters, lr)


@needs_kernels
def test_values_are_those_of_the_plain_network() -> None:
    size = 17, 20
    config = dataclasses.replace(SMALL, implementation="gpu", use_shuffle=False, topk=2, lr_space="linear")
    assert implementations.chosen_implementation(config) is gpu.apply_network
    lr = jax.random.uniform(jax.random.key(1), (2, 21, 27, 3))
    sr, routing = _computed(config, lr, size)
    expected, expected_routing = _computed(dataclasses.replace(config, implementation="plain"), lr, size)
    inside = (slice(None), slice(2 * size[0]), slice(2 * size[1]))
    np.testing.assert_allclose(sr[inside], expected[inside], rtol=0, atol=2e-5)
    np.testing.assert_array_equal(routing.experts, expected_routing.experts)
    np.testing.assert_allclose(routing.probabilities, expected_routing.probabilities, rtol=1e-5)


@needs_kernels
@pytest.mark.parametrize("broken", [False, True], ids=["right", "broken"])
def test_the_self_check_finds_a_wrong_kernel(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    name, operation = "enhancement", gpu_operations.OPERATIONS["enhancement"]

    def wrong(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(1.01 * array for array in operation.forward(*arrays))

    if broken:
        monkeypatch.setitem(gpu_operations.OPERATIONS, name, dataclasses.replace(operation, forward=wrong))
    config = self_check._checked_config(SMALL)
    figures, reason = comparison.compare(gpu.apply_network, config, jax.devices()[0], gradients=False)
    if broken:
        assert reason.startswith("the values of gpu_enhancement differ from the plain ones by 1.0e-02")
    else:
        assert reason == ""
        assert figures["values"] < 1e-5


def test_what_does_not_fit_is_left_to_the_plain_network(caplog: pytest.LogCaptureFixture) -> None:
    gpu._warn.cache_clear()
    config = dataclasses.replace(SMALL, implementation="gpu", embedding_dim=600)
    with caplog.at_level(logging.WARNING):
        assert implementations.fused_implementation(config) == ("plain", plain.apply_network)
        implementations.fused_implementation(config)
    (record,) = caplog.records
    assert "embedding needs more shared memory" in record.message


@pytest.mark.parametrize("channels", [1, 36, 48, 64, 100, 180])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tiles_fit_into_the_shared_memory_of_the_smallest_gpu(channels: int, dtype: str) -> None:
    config = SeemoReConfig.variant("T", 4, embedding_dim=channels, compute_dtype=dtype)
    for variant in variants.variants_of(config):
        if variant.tile is not None:
            assert variant.shared_bytes <= 101_376
        else:
            assert channels > 100
    if channels <= 48:
        large = dataclasses.replace(config, global_kernel_size=33, topk=3, lr_space="exp")
        assert all(variant.tile for variant in variants.variants_of(large))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_matrices_are_in_the_order_of_the_lanes(dtype: str) -> None:
    matrix = jnp.arange(40 * 11, dtype=jnp.float32).reshape(40, 11) % 251  # exact in bfloat16
    fragments = np.asarray(variants.packed(matrix, dtype), np.float32)
    assert fragments.shape == (3, 2, 128)
    whole = np.pad(np.asarray(matrix), ((0, 8), (0, 5)))
    for lane in range(32 if dtype == "bfloat16" else 4):
        g, t = divmod(lane, 4)
        block = whole[16:32, 8:16]  # step 1, tile 1
        if dtype == "bfloat16":
            expected = [block[2 * t + 8 * i + e, g] for i in (0, 1) for e in (0, 1)]
            np.testing.assert_array_equal(fragments[1, 1, 4 * lane : 4 * lane + 4], expected)
        else:
            for j in range(8):
                expected = [block[2 * j + e, 2 * t + f] for e in (0, 1) for f in (0, 1)]
                np.testing.assert_array_equal(fragments[1, 1, 16 * j + 4 * t :][:4], expected)


@pytest.mark.parametrize(
    ("capability", "nvrtc", "word"), [("7.5", "", "this GPU has 7.5"), ("9.0", "there is no NVRTC", "no NVRTC")]
)
def test_a_gpu_that_cannot_run_the_kernels_gets_the_plain_network(
    capability: str, nvrtc: str, word: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu._warn.cache_clear()
    found = types.SimpleNamespace(device_kind="this GPU", compute_capability=capability)
    monkeypatch.setattr(device, "unavailable_reason", lambda: nvrtc)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: [found])
    assert implementations.fused_implementation(SMALL) == ("plain", plain.apply_network)
    assert [word in record.message for record in caplog.records] == [True]


def test_programs_for_other_gpus_take_the_kernels_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "unavailable_reason", lambda: "")
    with compiling_for("gpu"):
        assert implementations.chosen_implementation(SMALL) is plain.apply_network
        named = dataclasses.replace(SMALL, implementation="gpu")
        assert implementations.chosen_implementation(named) is gpu.apply_network
