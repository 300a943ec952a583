"""If these fail, LR images and the bicubic baseline are not MATLAB's, and scores do not compare with the literature."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seemore_jax import InputError, imresize
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.data.images import read_image


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_reproduces_the_published_lr_files_of_set5_bit_for_bit(benchmark_data: Path, scale: int) -> None:
    (set5,) = find_image_sets([benchmark_data / "Set5"], scale)
    assert len(set5.pairs) == 5
    for pair in set5.pairs:
        assert isinstance(pair.lr, Path)
        lr, hr = pair.read(scale)
        np.testing.assert_array_equal(lr, read_image(pair.lr))
        np.testing.assert_array_equal(imresize(hr, 1 / scale), lr)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    scale=st.one_of(st.sampled_from([1 / 4, 1 / 3, 1 / 2, 0.1, 1.0, 2.0, 3.0, 4.0]), st.floats(0.05, 5)),
    value=st.integers(0, 65535),
    dtype=st.sampled_from([np.uint8, np.uint16]),
)
def test_sizes_types_and_constants(height: int, width: int, scale: float, value: int, dtype: type) -> None:
    image: np.ndarray = np.full((height, width, 2), value % (np.iinfo(dtype).max + 1), dtype)
    resized = imresize(image, scale)
    assert resized.dtype == dtype
    new_height, new_width = (max(1, math.ceil(round(side * scale, 8))) for side in (height, width))
    assert resized.shape == (new_height, new_width, 2)
    assert (resized == image[0, 0, 0]).all()


def test_grey_and_colour_agree() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    color = imresize(image, 1 / 3)
    for channel in range(3):
        np.testing.assert_array_equal(imresize(image[..., channel], 1 / 3), color[..., channel])


def test_sixteen_bits_follow_eight() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
    fine = imresize(image.astype(np.uint16) * 257, 2) / 257
    assert np.abs(fine - imresize(image, 2)).max() < 1.1  # from two roundings to 8 bits and the clipping between them


def test_axes_are_treated_alike_up_to_the_rounding_between_them() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    difference = imresize(image, 1 / 2).astype(int) - imresize(image.T, 1 / 2).T
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("image", "scale"),
    [
        (np.zeros((4, 4), np.float32), 2),
        (np.zeros((4,), np.uint8), 2),
        (np.zeros((0, 4), np.uint8), 2),
        (np.zeros((4, 4), np.uint8), 0),
        (np.zeros((4, 4), np.uint8), math.nan),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_other_inputs_are_refused(image: np.ndarray, scale: float) -> None:
    with pytest.raises(InputError, match="imresize takes"):
        imresize(image, scale)
