"""If these tests fail, the TPU's kernels, here in interpret mode, differ from the plain implementation."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import topologies

from seemore_jax.ahead_of_time.matrix_flops import equations
from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.network.implementations import pallas_kernels, pallas_stages, plain, tpu
from seemore_jax.network.implementations.pallas_blocks import STEPS, row_stripe_groups, stripe_centres
from seemore_jax.network.implementations.pallas_memory import vmem_bytes
from seemore_jax.network.implementations.pallas_stages import MapShape
from seemore_jax.network.implementations.tpu_weights import row_stripe_taps
from seemore_jax.system.devices import compiling_for

_SMALL = {"num_layers": 1, "embedding_dim": 12, "global_kernel_size": 5, "recursive": 1}
_FULL = ("float32", "highest")
_HALF = ("bfloat16", "default")
# Machine code without optimization compiles in half the time; a small network spends most of its time on compilation.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


def _small(**fields: Any) -> SeemoReConfig:
    return SeemoReConfig.variant("T", 2, **(_SMALL | fields))


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sets short chunks, so that small images have several, and clears the cached kernels before and afterwards."""
    monkeypatch.setattr(pallas_stages, "_CHUNK", 128)
    pallas_kernels.fused.cache_clear()
    yield
    pallas_kernels.fused.cache_clear()


def _arguments(config: SeemoReConfig, shape: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """Returns the graph of the residual groups, their parameters, and an input."""
    random = np.random.default_rng(0)
    graph, shapes = nnx.split(SeemoRe.abstract(config).groups)
    # The initialisation of the network would take longer than everything else here.
    parameters = jax.tree_util.tree_map_with_path(functools.partial(_parameter, random), shapes)
    offsets = 3 * random.standard_normal((shape[0], 1, 1, config.embedding_dim))  # so that images differ in routing
    x = random.standard_normal((*shape, config.embedding_dim)) + offsets
    return graph, parameters, jnp.asarray(x, config.compute_dtype)


def _parameter(random: np.random.Generator, path: Any, leaf: jax.ShapeDtypeStruct) -> Any:
    """Returns a kernel that preserves the norm of its input, a small bias, or a scale near 1."""
    centre = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
    size = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
    return (centre + size * random.standard_normal(leaf.shape)).astype(np.float32)


def _values(implementation: Any, config: SeemoReConfig, shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """Returns output and routing."""
    graph, parameters, x = _arguments(config, shape)

    def values(parameters: Any, x: Any) -> Any:
        return implementation.apply_groups(nnx.merge(graph, parameters), x, config)

    return jax.jit(values, compiler_options=_COMPILER_OPTIONS)(parameters, x)


def _results(implementation: Any, config: SeemoReConfig, shape: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """Returns output, routing, and gradients with respect to parameters and input."""
    graph, parameters, x = _arguments(config, shape)
    direction = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)

    def along(parameters: Any, x: Any) -> Any:
        y, routing = implementation.apply_groups(nnx.merge(graph, parameters), x, config)
        return jnp.sum(y * direction), (y, routing)

    gradient = jax.jit(jax.grad(along, argnums=(0, 1), has_aux=True), compiler_options=_COMPILER_OPTIONS)
    gradients, (y, routing) = gradient(parameters, x)
    return y, routing, gradients


@functools.cache
def _expected_results(config: SeemoReConfig, shape: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    return _results(plain, config, shape)


def _assert_same_values(mine: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    (y, routing), (expected_y, expected_routing) = mine, expected
    np.testing.assert_allclose(y, expected_y, rtol=0, atol=1e-6 * max(2.0, float(jnp.abs(expected_y).max())))
    np.testing.assert_array_equal(routing.experts, expected_routing.experts)
    np.testing.assert_allclose(routing.probabilities, expected_routing.probabilities, rtol=0, atol=1e-6)


def _assert_same(config: SeemoReConfig, shape: tuple[int, int, int]) -> Any:
    *values, gradients = _results(tpu, config, shape)
    # Rematerialization does not change values. Without it, the plain network is compiled only once.
    *expected_values, expected_gradients = _expected_results(dataclasses.replace(config, rematerialize=False), shape)
    _assert_same_values(tuple(values), tuple(expected_values))
    for (path, mine), expected in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(expected_gradients), strict=True
    ):
        tolerance = 2e-5 * max(1.0, float(jnp.abs(expected).max()))
        np.testing.assert_allclose(mine, expected, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))
    return expected_values[1]


@pytest.mark.usefixtures("grouped_convolutions", "short_chunks")
@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "without kernels"])
def test_values_and_gradients_are_those_of_the_plain_implementation(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An odd size.
    if not fused:
        monkeypatch.setattr(pallas_kernels, "vmem_bytes", lambda: 0)
        monkeypatch.setattr(tpu, "_DENSE_PIXELS", 0)
    routing = _assert_same(_small(topk=2), (3, 13, 17))
    assert len(np.unique(routing.experts[:, 0, 0])) > 1, "the images should choose different experts"


@pytest.mark.thorough
@pytest.mark.usefixtures("grouped_convolutions")
@pytest.mark.parametrize("rematerialize", [False, True])
def test_layers_follow_one_another(rematerialize: bool) -> None:
    routing = _assert_same(_small(num_layers=2, rematerialize=rematerialize), (2, 4, 5))
    assert routing.experts.shape[:2] == (2, 2)


@pytest.mark.thorough
@pytest.mark.usefixtures("grouped_convolutions", "short_chunks")
def test_gradients_of_the_longest_filter_and_of_two_reductions() -> None:
    """The neighbourhood of a chunk is longer than the chunk and than the image."""
    fields = {"global_kernel_size": 33, "recursive": 2, "use_shuffle": False, "lr_space": "linear", "num_experts": 2}
    _assert_same(_small(**fields, embedding_dim=8), (2, 17, 16))


_OPTIONS: list[tuple[dict[str, Any], tuple[int, int, int]]] = [
    ({"recursive": 0, "num_experts": 2, "use_shuffle": False}, (1, 1, 1)),
    ({"recursive": 0, "lr_space": "double", "global_kernel_size": 33}, (2, 1, 9)),
    ({"lr_space": "linear", "topk": 3, "embedding_dim": 16}, (1, 4, 4)),
    ({"recursive": 2, "topk": 2, "embedding_dim": 36}, (1, 18, 16)),
    ({"embedding_dim": 5, "use_shuffle": False, "num_experts": 2, "topk": 2}, (2, 5, 7)),
]
# The filters read two chunks, three chunks, and one pixel.
_IN_CHUNKS: list[tuple[dict[str, Any], tuple[int, int, int]]] = [
    ({"global_kernel_size": 11}, (2, 12, 40)),
    ({"global_kernel_size": 33, "recursive": 0}, (1, 20, 19)),
    ({"global_kernel_size": 1, "recursive": 0}, (1, 16, 16)),  # whole chunks, without padding
]


@pytest.mark.usefixtures("grouped_convolutions")
@pytest.mark.parametrize(("fields", "shape"), _OPTIONS, ids=str)
def test_values_of_every_option_and_of_odd_sizes(fields: dict[str, Any], shape: tuple[int, int, int]) -> None:
    config = _small(**fields)
    _assert_same_values(_values(tpu, config, shape), _values(plain, config, shape))


@pytest.mark.usefixtures("grouped_convolutions", "short_chunks")
@pytest.mark.parametrize(("fields", "shape"), _IN_CHUNKS, ids=str)
def test_values_across_the_borders_of_chunks(fields: dict[str, Any], shape: tuple[int, int, int]) -> None:
    config = _small(**fields)
    image = MapShape.of(*shape[1:], config)
    assert image.lanes > image.chunk
    _assert_same_values(_values(tpu, config, shape), _values(plain, config, shape))


@pytest.mark.thorough
@pytest.mark.usefixtures("grouped_convolutions")
def test_bfloat16_is_as_exact_as_that_of_the_plain_implementation() -> None:
    """The errors of values and gradients are measured against the plain network in float32."""
    shape = (2, 9, 8)
    full, half = (_small(compute_dtype=dtype, precision=precision) for dtype, precision in (_FULL, _HALF))
    exact = _results(plain, full, shape)
    mine, theirs = _results(tpu, half, shape), _results(plain, half, shape)
    for index in (0, 2):
        error, error_of_plain = _error(mine[index], exact[index]), _error(theirs[index], exact[index])
        assert 0 < error < 1.5 * error_of_plain
    np.testing.assert_array_equal(mine[1].experts, exact[1].experts)


def _error(mine: Any, exact: Any) -> float:
    """Returns the Euclidean norm of the differences of all arrays, each with the same weight."""

    def relative(a: Any, b: Any) -> Any:
        return jnp.linalg.norm(a.astype(jnp.float32) - b) / (jnp.linalg.norm(b) + 1e-6)

    return float(jnp.linalg.norm(jnp.stack(jax.tree.leaves(jax.tree.map(relative, mine, exact)))))


@pytest.mark.parametrize("kernel_size", [1, 3, 7, 11])
def test_a_column_stripe_taken_in_threes_has_every_tap_once(kernel_size: int) -> None:
    served = [centre + i for centre in stripe_centres(kernel_size) for i in (-1, 0, 1)]
    reach = kernel_size // 2
    assert served[:kernel_size] == list(range(-reach, reach + 1))


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 11, 33])
def test_a_row_stripe_taken_in_threes_has_every_tap_once(kernel_size: int) -> None:
    image = MapShape(channels=1, height=4, width=4, precision=None)
    taps = 1.0 + np.arange(kernel_size, dtype=np.float32)
    groups = row_stripe_groups(kernel_size)
    matrix = row_stripe_taps(image, jnp.asarray(taps.reshape(1, -1, 1, 1)))
    matrix = matrix.reshape(len(groups), image.rows, len(STEPS), image.rows)
    served = [
        (group + step, float(matrix[i, 0, j, 0]))
        for i, group in enumerate(groups)
        for j, step in enumerate(STEPS)
        if matrix[i, 0, j, 0]
    ]
    assert sorted(served) == list(zip(range(-(kernel_size // 2), kernel_size // 2 + 1), taps, strict=True))


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_images_are_reconstructed_as_by_the_plain_implementation(scale: int) -> None:
    """The values of a pixel need more rows than the features at ×4, and fewer at ×2."""
    config = dataclasses.replace(_small(), scale=scale)
    graph, shapes = nnx.split(SeemoRe.abstract(config))
    random = np.random.default_rng(0)
    parameters = jax.tree_util.tree_map_with_path(functools.partial(_parameter, random), shapes)
    x, shallow = (random.standard_normal((2, 9, 17, config.embedding_dim)).astype(np.float32) for _ in range(2))
    direction = random.standard_normal((2, 9 * scale, 17 * scale, 3)).astype(np.float32)
    image = MapShape.of(9, 17, config)

    def by_kernels(parameters: Any, x: Any, shallow: Any) -> Any:
        maps = tpu.to_map(x, image), tpu.to_map(shallow, image)
        return tpu.reconstruct(nnx.merge(graph, parameters), *maps, image)

    def plainly(parameters: Any, x: Any, shallow: Any) -> Any:
        return nnx.merge(graph, parameters).reconstruct(x, shallow)

    def results(function: Any) -> Any:
        def along(*arguments: Any) -> Any:
            sr = function(*arguments)
            return jnp.sum(sr * direction), sr

        gradient = jax.jit(jax.grad(along, argnums=(0, 1, 2), has_aux=True), compiler_options=_COMPILER_OPTIONS)
        return gradient(parameters, x, shallow)

    def assert_close(mine: Any, expected: Any) -> None:
        np.testing.assert_allclose(mine, expected, rtol=0, atol=2e-5 * max(1.0, float(jnp.abs(expected).max())))

    jax.tree.map(assert_close, results(by_kernels), results(plainly))


@pytest.mark.parametrize(("size", "target"), [(4, 64), (2, 9), (3, 13)])
def test_the_resize_matrix_is_the_resize(size: int, target: int) -> None:
    expected = jax.image.resize(jnp.eye(size), (size, target), "bilinear", antialias=False)
    np.testing.assert_allclose(tpu._resize_matrix(size, target), expected, atol=1e-6)


def _kernels_used(
    kind: str, variant: str, dtype: str, height: int, width: int, *, gradient: bool = True
) -> dict[str, int]:
    """Returns the VMEM in bytes that each kernel asks for in a network of one group, with or without its gradient."""
    config = SeemoReConfig.variant(variant, num_layers=1, compute_dtype=dtype, precision=dict([_FULL, _HALF])[dtype])
    graph: Any
    graph, parameters = nnx.split(SeemoRe.abstract(config))
    lr = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)

    def total(parameters: Any, lr: Any) -> Any:
        return jnp.sum(tpu.apply_network(nnx.merge(graph, parameters), lr)[0])

    with compiling_for("tpu", kind):
        program = jax.jit(jax.grad(total) if gradient else total).trace(parameters, lr).jaxpr.jaxpr
    return {
        str(equation.params["name"]): equation.params["compiler_params"].vmem_limit_bytes
        for equation in equations(program, "pallas_call")
        if not equation.params["interpret"]
    }


_BLOCKS = ("embedding", "enhancement", "feed_forward", "mixing", "reconstruction")
_FORWARD = {f"{block}_forward" for block in _BLOCKS}
_ALL = _FORWARD | {f"{block}_backward" for block in _BLOCKS}


@pytest.mark.parametrize(
    ("kind", "variant", "dtype", "size", "expected"),
    [
        ("TPU v5 lite", "L", "float32", (64, 64), _ALL),
        ("TPU v4", "T", "bfloat16", (64, 64), _ALL),
        # Where only the forward kernel of a block fits, XLA computes the block and its gradient.
        ("TPU v4", "T", "bfloat16", (96, 96), {name for name in _ALL if name.startswith(("embedding", "feed"))}),
        ("TPU7x", "T", "bfloat16", (180, 320), set()),
        ("TPU v5 lite", "T", "bfloat16", (1024, 1024), set()),
    ],
)
def test_kernels_ask_for_what_they_need_and_xla_takes_what_does_not_fit(
    kind: str, variant: str, dtype: str, size: tuple[int, int], expected: set[str]
) -> None:
    used = _kernels_used(kind, variant, dtype, *size)
    assert used.keys() == expected
    with compiling_for("tpu", kind):
        assert all(limit <= vmem_bytes() for limit in used.values())
    if size == (64, 64):
        assert max(used.values()) < 20 * 2**20, "a kernel asks for much more than its maps need"


@pytest.mark.parametrize(("kind", "size"), [("TPU v4", (96, 96)), ("TPU7x", (180, 320))])
def test_inference_takes_the_forward_kernels_that_fit(kind: str, size: tuple[int, int]) -> None:
    """Otherwise, images whose gradient does not fit are upscaled by XLA, although the kernels for them do."""
    assert _kernels_used(kind, "T", "bfloat16", *size, gradient=False).keys() == _FORWARD


def test_a_tpu_that_is_not_known_has_little_memory() -> None:
    with compiling_for("tpu", "TPU v99"):
        assert vmem_bytes() == 16 * 2**20
    with compiling_for("tpu", "TPU7x"):
        assert vmem_bytes() == 64 * 2**20


@pytest.mark.needs("libtpu")
def test_a_host_without_a_tpu_compiles_real_kernels_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    devices = topologies.get_topology_desc("v5e:1x1", "tpu", chips_per_host_bounds=(1, 1, 1)).devices
    config = SeemoReConfig.variant("T", compute_dtype="bfloat16", precision="default")
    image = MapShape.of(16, 16, config)
    block = tpu.blocks.mixing()
    maps = jnp.zeros((2, image.rows, image.lanes), jnp.bfloat16)
    weights = {name: jnp.zeros((40, 40)) for name in ("project",)} | {"project_bias": jnp.zeros((40, 1))}
    experts = {
        **{name: jnp.zeros((2, 8, 40)) for name in ("from_features", "from_context")},
        **{name: jnp.zeros((2, 8, 1)) for name in ("from_features_bias", "from_context_bias")},
        "up": jnp.zeros((2, 40, 8)),
        "up_bias": jnp.zeros((2, 40, 1)),
    }
    sharding = jax.sharding.SingleDeviceSharding(devices[0])
    function = jax.jit(
        lambda maps: pallas_kernels.apply(block, image, weights, experts, [maps] * 3), in_shardings=sharding
    )
    assert "tpu_custom_call" in function.trace(jax.ShapeDtypeStruct(maps.shape, maps.dtype)).lower().as_text()
