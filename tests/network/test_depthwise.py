"""If these tests fail, the fast depthwise convolution differs from XLA's in value or gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seemore_jax.network.depthwise import sum_of_shifted_products


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), 1, "SAME"), ((1, 11), 1, "SAME"), ((11, 1), 1, "SAME"), ((4, 4), 4, "VALID"), ((1, 1), 1, "SAME")],
    ids=str,
)
@pytest.mark.parametrize(("height", "width", "by_rows"), [(4, 4, False), (7, 13, True), (16, 5, False)])
def test_sum_of_shifted_products_is_the_grouped_convolution(
    kernel: tuple[int, int], stride: int, padding: str, height: int, width: int, by_rows: bool
) -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    lhs = jax.random.normal(keys[0], (2, height, width, 6))
    rhs = jax.random.normal(keys[1], (*kernel, 1, 6))
    options = {
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        "feature_group_count": 6,
        "precision": lax.Precision.HIGHEST,
    }

    def value_and_gradients(convolve):  # type: ignore[no-untyped-def]
        def loss(lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = convolve(lhs, rhs, (stride, stride), padding, **options)
            return jnp.sum(jnp.sin(out)), out

        gradients, out = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(lhs, rhs)
        return out, *gradients

    products = functools.partial(sum_of_shifted_products, by_rows=by_rows)
    fast, plain = value_and_gradients(products), value_and_gradients(lax.conv_general_dilated)
    for mine, expected in zip(fast, plain, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)
