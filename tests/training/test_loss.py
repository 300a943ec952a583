"""If these fail, the loss on a TPU is not the release's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seemore_jax.training.loss import spectrum_by_fft, spectrum_by_products


@pytest.mark.parametrize("shape", [(2, 32, 48, 3), (1, 15, 9, 3)], ids=str)
def test_the_spectrum_by_products_is_the_fft_in_value_and_gradient(shape: tuple[int, ...]) -> None:
    images = jax.random.normal(jax.random.key(0), shape)

    def value_and_gradient(spectrum):  # type: ignore[no-untyped-def]
        parts, pull_back = jax.vjp(spectrum, images)
        cotangents = tuple(jax.random.normal(jax.random.key(1), part.shape) for part in parts)
        return *parts, pull_back(cotangents)[0]

    pairs = zip(value_and_gradient(spectrum_by_products), value_and_gradient(spectrum_by_fft), strict=True)
    for mine, expected in pairs:
        np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-6 * float(jnp.abs(expected).max()))
