"""If these fail, training on devices degrades images in another way than the JPEG files that people have."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image

from seemore_jax.data.jpeg import SUBSAMPLINGS, compress, compress_on_device, estimated_quality
from seemore_jax.system.errors import InputError

PHOTOGRAPH = skimage.data.astronaut()
QUALITIES = (5, 30, 50, 75, 90, 100)


def patches(side: int) -> jax.Array:
    """Squares from all over a photograph, (n, side, side, 3)."""
    starts = [(40, 180), (200, 60), (300, 300), (150, 250)]
    return jnp.stack([PHOTOGRAPH[top : top + side, left : left + side] for top, left in starts])


@pytest.mark.parametrize("side", [64, 53])
@pytest.mark.parametrize("subsampling", range(3), ids=SUBSAMPLINGS)
@pytest.mark.parametrize("quality", QUALITIES)
def test_the_device_compresses_as_libjpeg_does(quality: int, subsampling: int, side: int) -> None:
    images = patches(side)
    count = len(images)
    mine = jax.jit(compress_on_device)(images, jnp.full(count, quality), jnp.full(count, subsampling))
    expected = np.stack([compress(image, quality, subsampling) for image in np.asarray(images)])
    difference = np.abs(np.asarray(mine).astype(int) - expected)
    assert np.mean(difference <= 2) >= 0.99
    assert difference.mean() < 0.4
    if quality <= 50:
        assert np.abs(np.asarray(images, int) - expected).mean() > 2, "the compression can be seen"


def test_each_image_has_its_own_quality_and_subsampling() -> None:
    images = patches(48)
    quality, subsampling = [10, 0, 60, 95], [2, 0, 1, 0]
    mine = np.asarray(compress_on_device(images, jnp.asarray(quality), jnp.asarray(subsampling)))
    np.testing.assert_array_equal(mine[1], images[1], err_msg="quality 0 is no compression")
    for i in (0, 2, 3):
        difference = np.abs(mine[i].astype(int) - compress(np.asarray(images[i]), quality[i], subsampling[i]))
        assert np.mean(difference <= 2) >= 0.99


@pytest.mark.parametrize(("quality", "subsampling"), [(0, 2), (101, 2), (50, 3), (50, -1)])
def test_wrong_settings_are_refused(quality: int, subsampling: int) -> None:
    with pytest.raises(InputError, match=f"not {quality} and {subsampling}"):
        compress(PHOTOGRAPH, quality, subsampling)


@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 75, 92, 99])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_quality_of_a_file_is_found(quality: int, subsampling: int) -> None:
    file = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).save(file, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(file) as image:
        assert abs(estimated_quality(image.quantization) - quality) <= (1 if quality > 2 else 10)  # type: ignore[attr-defined]
