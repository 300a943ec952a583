"""If these tests fail, the network differs from the release, or its routing is not sparse or not per image."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seemore.module
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from seemore_jax import InputError, SeemoRe, SeemoReConfig
from seemore_jax.network.config import SCALES, VARIANTS
from seemore_jax.network.implementations.fused_operation import programs_in
from seemore_jax.network.seemore import MixtureOfLowRankExperts
from seemore_jax.porting.names import to_torch
from tests.support.release import (
    PARITY,
    ROUTED_IMAGES,
    images,
    ported,
    release_model,
    run_compiled,
    run_release,
    to_nchw,
    to_nhwc,
    zeros,
)

ALL_VARIANTS = [(name, scale) for name in VARIANTS for scale in SCALES]
# Small networks that compile quickly and contain every part of the network.
SMALL = SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=2)


@pytest.mark.parametrize(("name", "scale"), ALL_VARIANTS)
def test_output_is_that_of_the_release_whichever_experts_are_chosen(name: str, scale: int) -> None:
    """A batch gives the same results as its images one by one; the release takes no batches in evaluation."""
    config = SeemoReConfig.variant(name, scale)
    release = release_model(config)
    sr, routing = run_compiled(ported(release, config), ROUTED_IMAGES, return_routing=True)
    assert sr.dtype == jnp.float32
    np.testing.assert_allclose(sr, run_release(release, ROUTED_IMAGES), rtol=0, atol=PARITY)
    # Every expert of every layer was chosen.
    assert all(set(routing.experts[:, layer, 0].tolist()) == {0, 1, 2} for layer in range(config.num_layers))
    assert routing.experts.shape == (6, config.num_layers, 1)
    assert routing.probabilities.shape == (6, config.num_layers, 3)
    np.testing.assert_allclose(routing.probabilities.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (180, 320)])
@pytest.mark.parametrize("scale", SCALES)
def test_larger_images_too(scale: int, height: int, width: int) -> None:
    config = SeemoReConfig.variant("T", scale)
    release = release_model(config)
    lr = images(1, height, width)
    sr = run_compiled(ported(release, config), lr)
    assert sr.shape == (1, height * scale, width * scale, 3)
    np.testing.assert_allclose(sr, run_release(release, lr), rtol=0, atol=PARITY)


def test_a_batch_is_its_images_one_by_one() -> None:
    model = ported(release_model(SMALL), SMALL)
    batch = run_compiled(model, ROUTED_IMAGES[:5])
    singles = [run_compiled(model, image[None]) for image in ROUTED_IMAGES[:5]]
    np.testing.assert_allclose(batch, np.concatenate(singles), rtol=0, atol=PARITY)


ABLATIONS: list[dict[str, Any]] = [
    {"topk": 2},
    {"topk": 3, "lr_space": "linear"},
    {"lr_space": "double", "num_experts": 4, "topk": 2},
    {"num_experts": 1},
    {"use_shuffle": False},
    {"recursive": 1},
    {"recursive": 3},
    {"recursive": 0},
    {"global_kernel_size": 3},
    {"global_kernel_size": 21},
    {"img_range": 255.0},
    {"scale": 1},
    {"embedding_dim": 7},
]


@pytest.mark.parametrize("fields", ABLATIONS, ids=str)
def test_ablations_of_the_release(fields: dict[str, Any]) -> None:
    config = dataclasses.replace(SMALL, **fields)
    release = release_model(config)
    lr = images(2, 67, 70 if config.recursive == 3 else 21)
    sr = run_compiled(ported(release, config), lr)
    np.testing.assert_allclose(sr, run_release(release, lr), rtol=0, atol=PARITY)


BLOCKS: dict[str, tuple[Callable[[SeemoRe], nnx.Module], str]] = {
    "rank modulating expert": (lambda m: m.groups[1].rank_modulating, "body.1.local_block"),
    "mixture of rank experts": (lambda m: m.groups[1].rank_modulating.mixture_block, "body.1.local_block.block"),
    "local striped convolution": (
        lambda m: m.groups[1].rank_modulating.mixture_block.local,
        "body.1.local_block.block.conv_2.0",
    ),
    "gated feed-forward": (lambda m: m.groups[1].rank_modulating.feed_forward, "body.1.local_block.ffn"),
    "spatial modulating expert": (lambda m: m.groups[1].spatial_modulating, "body.1.global_block"),
    "spatial enhancement expertise": (
        lambda m: m.groups[1].spatial_modulating.enhancement,
        "body.1.global_block.block",
    ),
    "residual group": (lambda m: m.groups[1], "body.1"),
    "LayerNorm": (lambda m: m.norm, "norm"),
    "upsampler convolution": (lambda m: m.upsampler, "upsampler.0"),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_is_that_of_the_release(block: str) -> None:
    config = SeemoReConfig.variant("T", 4)
    release = release_model(config)
    part, release_name = BLOCKS[block]
    x = np.random.default_rng(0).normal(size=(1, 19, 22, config.embedding_dim)).astype(np.float32)
    output = run_compiled(part(ported(release, config)), x)
    output = output[0] if isinstance(output, tuple) else output
    np.testing.assert_allclose(output, run_release(release.get_submodule(release_name), x), rtol=0, atol=PARITY)


def test_context_calibration_is_that_of_the_release() -> None:
    config = SeemoReConfig.variant("T", 4)
    release = release_model(config)
    k = np.random.default_rng(0).normal(size=(1, 37, 50, config.embedding_dim)).astype(np.float32)
    expected = release.get_submodule("body.1.local_block.block").calibrate(to_nchw(k))
    calibrated = ported(release, config).groups[1].rank_modulating.mixture_block.calibrate(jnp.asarray(k))
    np.testing.assert_allclose(calibrated, to_nhwc(expected), rtol=0, atol=PARITY)


def release_loss(sr: Any, hr: Any, xp: Any, rfft2: Callable[[Any], Any]) -> Any:
    """Returns L1 + 0.1 · L1 of the real and imaginary parts of an unnormalised real FFT, of (N, C, H, W) images."""
    spectrum = rfft2(sr) - rfft2(hr)
    return xp.abs(sr - hr).mean() + 0.1 * (xp.abs(spectrum.real).mean() + xp.abs(spectrum.imag).mean()) / 2


def release_gradients(release: Any, lr: torch.Tensor, hr: torch.Tensor) -> dict[str, np.ndarray]:
    """Returns the gradient of `release_loss` for each parameter of `release`, in the type of the parameters."""
    release.zero_grad()
    release_loss(release(lr), hr, torch, torch.fft.rfft2).backward()
    return {name: parameter.grad.numpy() for name, parameter in release.named_parameters()}


GRADIENT_CONFIGS = {
    "T ×4": SeemoReConfig.variant("T", 4),
    "B ×2": SeemoReConfig.variant("B", 2),
    # The options of L with fewer layers; 16 layers would take a minute to compile.
    "L ×3, 4 layers": SeemoReConfig.variant("L", 3, num_layers=4),
    "top 2 of 3": dataclasses.replace(SMALL, topk=2),
    "top 3 of 4, no shuffle": dataclasses.replace(SMALL, topk=3, num_experts=4, use_shuffle=False, img_range=255.0),
}


@pytest.mark.parametrize("name", GRADIENT_CONFIGS)
def test_gradients_are_those_of_the_release_in_training(name: str) -> None:
    config = GRADIENT_CONFIGS[name]
    release = release_model(config).train()
    model = ported(release, config)
    lr = jnp.asarray(images(2, 16, 16))
    hr = np.random.default_rng(1).uniform(size=(2, 16 * config.scale, 16 * config.scale, 3)).astype(np.float32)

    rounded = release_gradients(release, to_nchw(np.asarray(lr)), to_nchw(hr))
    exact = release_gradients(release.double(), to_nchw(np.asarray(lr)).double(), to_nchw(hr).double())

    graph, state = nnx.split(model)

    def loss(state: nnx.State) -> jax.Array:
        sr = nnx.merge(graph, state)(lr)
        return release_loss(sr.transpose(0, 3, 1, 2), hr.transpose(0, 3, 1, 2), jnp, jnp.fft.rfft2)

    gradients = nnx.merge(graph, jax.jit(jax.grad(loss))(state))
    computed = to_torch(gradients)
    assert computed.keys() == exact.keys()
    # Some gradients of small networks are small sums of large terms: there, the release itself is off in float32.
    for name, gradient in exact.items():
        difference = np.linalg.norm(computed[name] - gradient)
        rounding = np.linalg.norm(rounded[name] - gradient)
        assert difference <= max(5e-5 * np.linalg.norm(gradient), 3 * rounding), name


def expert_mixture() -> tuple[MixtureOfLowRankExperts, jax.Array, jax.Array]:
    """Returns a mixture of experts, features and context of two images. Some experts are never chosen."""
    model = ported(release_model(SMALL), SMALL)
    features, context = np.random.default_rng(0).normal(size=(2, 2, 8, 8, SMALL.embedding_dim)).astype(np.float32)
    return model.groups[0].rank_modulating.mixture_block.mixture, jnp.asarray(features), jnp.asarray(context)


def test_only_the_chosen_experts_take_part() -> None:
    """The weights of the other experts do not matter. With masks instead of a choice, their NaN would spread."""
    mixture, features, context = expert_mixture()
    expected, routing = mixture(features, context)
    chosen = set(np.unique(routing.experts))
    idle = {0, 1, 2} - chosen
    assert idle
    for index in idle:
        poisoned = mixture.experts[index]
        for layer in (poisoned.from_features, poisoned.from_context, poisoned.up):
            layer.kernel[...] = jnp.full_like(layer.kernel[...], jnp.nan)
    np.testing.assert_array_equal(mixture(features, context)[0], expected)


def test_experts_not_chosen_get_a_gradient_of_exactly_zero() -> None:
    mixture, features, context = expert_mixture()
    graph, state = nnx.split(mixture)
    _, routing = mixture(features, context)
    gradient = nnx.merge(graph, jax.grad(lambda s: jnp.sum(nnx.merge(graph, s)(features, context)[0] ** 2))(state))
    chosen = set(np.unique(routing.experts))
    for index, expert in enumerate(gradient.experts):
        leaves = jax.tree.leaves(nnx.state(expert))
        assert all(bool(jnp.any(leaf != 0)) == (index in chosen) for leaf in leaves)


def test_one_program_serves_every_routing() -> None:
    model = ported(release_model(SMALL), SMALL)
    graph, state = nnx.split(model)
    run: Any = jax.jit(lambda state, lr: nnx.merge(graph, state)(lr, return_routing=True))
    routings = {run(state, image[None])[1].experts.tobytes() for image in ROUTED_IMAGES}
    assert len(routings) > 1
    assert run._cache_size() == 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (5, 16), (16, 15)])
def test_small_images_are_padded_by_repetition_and_cropped(height: int, width: int) -> None:
    config = SeemoReConfig.variant("T", 3)
    release = release_model(config)
    lr = images(2, height, width)
    padding = ((0, 0), (0, max(0, 16 - height)), (0, max(0, 16 - width)), (0, 0))
    expected = run_release(release, np.pad(lr, padding, mode="edge"))[:, : 3 * height, : 3 * width]
    np.testing.assert_allclose(run_compiled(ported(release, config), lr), expected, rtol=0, atol=PARITY)


@settings(max_examples=15)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    scale=st.integers(1, 4),
    recursive=st.integers(0, 3),
    topk=st.integers(1, 3),
)
def test_shapes_for_any_image_and_option(
    batch: int, height: int, width: int, scale: int, recursive: int, topk: int
) -> None:
    config = SeemoReConfig(scale=scale, embedding_dim=4, num_layers=1, recursive=recursive, topk=topk)
    model = zeros(config)
    lr = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    sr, routing = jax.eval_shape(lambda lr: model(lr, return_routing=True), lr)
    assert sr.shape == (batch, scale * height, scale * width, 3)
    assert routing.experts.shape == (batch, 1, topk)
    assert routing.probabilities.shape == (batch, 1, 3)


def test_bfloat16_stays_near_float32_and_keeps_parameters_and_router_in_float32() -> None:
    config = SeemoReConfig.variant("T", 4, compute_dtype="bfloat16")
    torch.manual_seed(0)
    exact = dataclasses.replace(config, compute_dtype="float32")
    reference = ported(seemore.module.SeemoRe(**exact.to_dict()), exact)
    model = nnx.merge(nnx.split(SeemoRe.abstract(config))[0], nnx.state(reference))
    lr = images(2, 24, 24)
    sr, routing = run_compiled(model, lr, return_routing=True)
    assert sr.dtype == jnp.float32
    assert routing.probabilities.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype(jnp.float32)}
    assert float(jnp.max(jnp.abs(sr - run_compiled(reference, lr)))) < 2e-2


def matrix_products(program: Any) -> Iterator[Any]:
    """Yields the equations of a program, and of the programs that it calls, with matrix products or convolutions."""
    for equation in program.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for called in programs_in(equation):
            yield from matrix_products(called)


@pytest.mark.parametrize("implementation", ["plain", "tpu"])
@pytest.mark.parametrize("precision", ["highest", "default"])
def test_precision_reaches_every_product(precision: str, implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a TPU, a product with the default precision is computed in bfloat16."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    model = zeros(dataclasses.replace(SMALL, precision=precision, implementation=implementation))
    products = list(matrix_products(jax.make_jaxpr(model)(jnp.zeros((1, 16, 16, 3))).jaxpr))
    highest = sum(product.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2 for product in products)
    assert len(products) > 40
    # The precision is the configuration's, or the highest one where numbers are only moved, as in a resize.
    assert highest == len(products) if precision == "highest" else 0 < highest < len(products) / 4


def test_initial_parameters_have_pytorchs_distribution() -> None:
    """Initial parameters have the same range and the same deviation as in the release, tensor by tensor."""
    config = SeemoReConfig.variant("T", 4)
    torch.manual_seed(0)
    expected = {n: p.detach().numpy() for n, p in seemore.module.SeemoRe(**config.to_dict()).named_parameters()}
    for name, tensor in to_torch(SeemoRe(config, rngs=nnx.Rngs(0))).items():
        if "norm" in name:
            np.testing.assert_array_equal(tensor, expected[name])
        elif tensor.size >= 300:
            assert np.std(tensor) == pytest.approx(np.std(expected[name]), rel=0.1), name
            assert np.abs(tensor).max() == pytest.approx(np.abs(expected[name]).max(), rel=0.02), name
        elif tensor.size >= 36:
            assert np.abs(tensor).max() == pytest.approx(np.abs(expected[name]).max(), rel=0.3), name


@pytest.mark.parametrize(
    "lr",
    [jnp.zeros((16, 16, 3)), jnp.zeros((1, 16, 16, 1)), jnp.zeros((1, 0, 16, 3)), jnp.zeros((1, 16, 16, 3), "uint8")],
)
@pytest.mark.usefixtures("unchecked")
def test_other_inputs_are_refused_in_words(lr: jax.Array) -> None:
    with pytest.raises(InputError, match="SeemoRe takes"):
        zeros(SMALL)(lr)
