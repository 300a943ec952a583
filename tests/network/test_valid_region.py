"""If these tests fail, the summary of the context of a large image is interpolated at wrong positions."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seemore_jax.network import valid_region

# Length of the summary, length of the image, and index of the first row to compute.
SIZES = [
    (2, 10, 0),
    (16, 64, 3),
    (35_000, 140_000, 139_900),
    (35_000, 140_001, 100_001),
    (62_500, 1_000_003, 999_950),
    (3, 1_000_003, 600_000),
]
HUGE = [
    (10_000_000, 40_000_003, 31_415_926),
    (2**28, 2**30, 2**30 - 100),
    (2**26 - 1, 2**30 - 1, 2**29 + 5),
    (2**30, 2**30, 2**30 - 100),
    (715_827_881, 2**30 - 1, 2**30 - 101),  # no common factor
    (1, 2**30, 2**29 - 50),
]
LENGTH = 100


@pytest.fixture(params=[False, True], ids=["int32", "x64"], autouse=True)
def enable_x64(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs each test with and without 64-bit types, which the user can enable in JAX."""
    with jax.enable_x64(request.param):
        yield


def places(source: int, target: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns integer part and fraction of the exact positions in the summary, clipped to its edges."""
    index = np.arange(first, first + LENGTH, dtype=np.int64)
    whole, rest = np.divmod((2 * index + 1) * source - target, 2 * target)
    inside = (whole >= 0) & (whole < source - 1)
    return np.clip(whole, 0, source - 1), np.where(inside, rest / (2 * target), 0)


@pytest.mark.parametrize(("source", "target", "first"), SIZES)
@pytest.mark.parametrize("axis", [1, 2])
def test_long_sides_are_resized_exactly(source: int, target: int, first: int, axis: int) -> None:
    values = np.random.default_rng(0).random(source, np.float32)
    x = jnp.asarray(values[None, :, None, None] if axis == 1 else values[None, None, :, None])
    resize = jax.jit(valid_region.resize_axis, static_argnums=(1, 2))
    resized = resize(x, axis, LENGTH, *(jnp.int32(value) for value in (source, target, first)))
    above, share = places(source, target, first)
    below = np.minimum(above + 1, source - 1)
    expected = (1 - share) * values[above] + share * values[below]
    assert resized.dtype == np.float32
    inside = min(LENGTH, target - first)  # values beyond the image are arbitrary
    np.testing.assert_allclose(np.ravel(resized)[:inside], expected[:inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("source", "target", "first"), SIZES + HUGE)
def test_positions_are_exact_however_long_the_side(source: int, target: int, first: int) -> None:
    """The test above, for summaries that would not fit in memory."""
    positions = jax.jit(valid_region.resize_positions, static_argnums=0)
    above, share = map(np.asarray, positions(LENGTH, *(jnp.int32(value) for value in (source, target, first))))
    expected_above, expected_share = places(source, target, first)
    difference = (above - expected_above) + (share.astype(np.float64) - expected_share)
    difference[above == source - 1] = (above - expected_above)[above == source - 1]  # there, the weight does not matter
    inside = min(LENGTH, target - first)
    assert np.abs(difference[:inside]).max() < 1e-6
