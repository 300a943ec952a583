"""If these fail, the TPU's kernels, here in interpret mode, are not the plain implementation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import topologies

from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.network.implementations import pallas_stages, plain, tpu
from seemore_jax.network.implementations.pallas_stages import Image

_SMALL = {"num_layers": 1, "embedding_dim": 12, "global_kernel_size": 5, "recursive": 1}


def _results(implementation: Any, config: SeemoReConfig, shape: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """Output, routing, and gradients with respect to parameters and input."""
    graph, parameters = nnx.split(SeemoRe(config, rngs=nnx.Rngs(4)).groups)  # its router tells these images apart
    keys = jax.random.split(jax.random.key(0), 2)
    offsets = 3 * jax.random.normal(keys[0], (shape[0], 1, 1, config.embedding_dim))  # so that images differ in routing
    x = jax.random.normal(keys[0], (*shape, config.embedding_dim)) + offsets
    direction = jax.random.normal(keys[1], x.shape)

    def along(parameters: Any, x: Any) -> Any:
        y, routing = implementation.apply_groups(nnx.merge(graph, parameters), x, config)
        return jnp.sum(y * direction), (y, routing)

    gradients, (y, routing) = jax.jit(jax.grad(along, argnums=(0, 1), has_aux=True))(parameters, x)
    return y, routing, gradients


def _assert_same(config: SeemoReConfig, shape: tuple[int, int, int]) -> Any:
    y, routing, gradients = _results(tpu, config, shape)
    expected_y, expected_routing, expected_gradients = _results(plain, config, shape)
    np.testing.assert_allclose(y, expected_y, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(routing.experts, expected_routing.experts)
    np.testing.assert_allclose(routing.probabilities, expected_routing.probabilities, rtol=0, atol=1e-6)
    for mine, expected in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=0, atol=2e-5 * max(1.0, float(jnp.abs(expected).max())))
    return expected_routing


@pytest.mark.usefixtures("grouped_convolutions")
@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "without kernels"])
def test_values_and_gradients_are_those_of_the_plain_implementation(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An odd size, and so short chunks that there are several.
    monkeypatch.setattr(pallas_stages, "_CHUNK", 128)
    if not fused:
        monkeypatch.setattr(pallas_stages, "_VMEM_BYTES", 0)
        monkeypatch.setattr(tpu, "_DENSE_PIXELS", 0)
    routing = _assert_same(SeemoReConfig.variant("T", 2, **_SMALL, topk=2), (3, 13, 17))
    assert len(np.unique(routing.experts[:, 0, 0])) > 1, "the images should choose different experts"


@pytest.mark.parametrize("kernel_size", [1, 3, 7, 11])
def test_a_column_stripe_taken_in_threes_has_every_tap_once(kernel_size: int) -> None:
    from seemore_jax.network.implementations.pallas_blocks import stripe_centres

    served = [centre + i for centre in stripe_centres(kernel_size) for i in (-1, 0, 1)]
    reach = kernel_size // 2
    assert served[:kernel_size] == list(range(-reach, reach + 1))


@pytest.mark.parametrize(("size", "target"), [(4, 64), (2, 9), (3, 13)])
def test_the_resize_matrix_is_the_resize(size: int, target: int) -> None:
    expected = jax.image.resize(jnp.eye(size), (size, target), "bilinear", antialias=False)
    np.testing.assert_allclose(tpu._resize_matrix(size, target), expected, atol=1e-6)


def test_what_fits_into_memory_is_fused_and_what_does_not_is_not() -> None:
    config = SeemoReConfig.variant("T")
    for side, fits in ((64, True), (2048, False)):
        image = Image.of(side, side, config)
        assert tpu.blocks.feed_forward(image).fits(image) == fits
        assert tpu.blocks.enhancement(image, 11).fits(image) == fits


@pytest.mark.needs("libtpu")
def test_a_host_without_a_tpu_compiles_real_kernels_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    devices = topologies.get_topology_desc("v5e:1x1", "tpu", chips_per_host_bounds=(1, 1, 1)).devices
    config = SeemoReConfig.variant("T", compute_dtype="bfloat16", precision="default")
    image = Image.of(16, 16, config)
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
        lambda maps: pallas_stages.apply(block, image, weights, experts, [maps] * 3), in_shardings=sharding
    )
    assert "tpu_custom_call" in function.trace(jax.ShapeDtypeStruct(maps.shape, maps.dtype)).lower().as_text()
