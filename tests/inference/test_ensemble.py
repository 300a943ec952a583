"""If these tests fail, the self-ensemble averages images with different orientations."""

import numpy as np

import seemore_jax as sj
from seemore_jax.inference.callbacks import Callbacks
from seemore_jax.inference.ensemble import self_ensemble
from tests.support.release import images, ported, release_model

LR = images(2, 5, 7)


def test_a_symmetric_enlargement_is_its_own_ensemble() -> None:
    enlarged = np.repeat(np.repeat(LR, 2, axis=1), 2, axis=2)
    shares: list[float] = []
    callbacks = Callbacks(progress=shares.append)
    result = self_ensemble(lambda lr, _: np.repeat(np.repeat(lr, 2, axis=1), 2, axis=2), LR, callbacks)
    assert shares == [i / 8 for i in range(1, 9)]
    np.testing.assert_allclose(result, enlarged, atol=1e-6)


def test_all_eight_versions_are_seen_once_and_the_mean_is_invariant() -> None:
    seen = []

    def network(lr: np.ndarray, callbacks: Callbacks) -> np.ndarray:
        del callbacks
        seen.append(lr)
        return lr * np.arange(lr.shape[1] * lr.shape[2]).reshape(1, *lr.shape[1:3], 1)

    result = self_ensemble(network, LR, Callbacks())
    assert len({version.tobytes() for version in seen}) == 8
    turned = self_ensemble(network, LR[:, ::-1], Callbacks())
    np.testing.assert_allclose(turned[:, ::-1], result, rtol=1e-6)


def test_upscale_averages_the_eight() -> None:
    config = sj.SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1)
    model = ported(release_model(config), config)
    model.upsampler.kernel[...] *= 0.02
    image = np.round(images(1, 20, 17)[0] * 65535).astype(np.uint16)
    total = np.zeros((40, 34, 3))
    for turns in range(4):
        total += np.rot90(sj.upscale(model, np.rot90(image, turns)), -turns)
        total += np.rot90(sj.upscale(model, np.rot90(image[::-1], turns)), -turns)[::-1]
    # With 16 bits, the difference is only that of rounding each of the eight results.
    assert np.abs(sj.upscale(model, image, ensemble=True) - total / 8).max() <= 2
