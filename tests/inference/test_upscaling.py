"""If these tests fail, upscaled images have another type, other channels, a fringe, or wrong values."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import seemore_jax as sj
from seemore_jax.inference.upscaling import upscale_images
from tests.support.release import images, ported, release_model, run_compiled

CONFIG = sj.SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1)
RGB = np.round(images(1, 20, 17)[0] * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> sj.SeemoRe:
    """Returns a network whose output is near its input, so that upscaled images look like images."""
    model = ported(release_model(CONFIG), CONFIG)
    model.upsampler.kernel[...] *= 0.02
    return model


def test_rgb_is_the_networks_output_clipped_and_rounded(model: sj.SeemoRe) -> None:
    for dtype, peak in ((np.uint8, 255), (np.uint16, 65535)):
        image = RGB.astype(dtype) * (peak // 255)
        sr = run_compiled(model, jnp.asarray(image[None] / peak, jnp.float32))[0]
        upscaled = sj.upscale(model, image)
        assert upscaled.dtype == dtype
        # One unit, because values may be rounded differently where two programs differ in the last bit.
        assert np.abs(upscaled - np.round(np.clip(sr, 0, 1) * peak)).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)])
def test_type_and_channels_are_kept(model: sj.SeemoRe, channels: tuple[int, ...], dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (5, 9, *channels), dtype=dtype)
    upscaled = sj.upscale(model, image)
    assert upscaled.dtype == dtype
    assert upscaled.shape == (10, 18, *channels)


def test_grey_is_the_luma_of_three_equal_channels(model: sj.SeemoRe) -> None:
    grey = RGB[..., 0]
    color = sj.upscale(model, np.repeat(grey[..., None], 3, axis=2))
    assert np.abs(sj.upscale(model, grey) - color @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_transparency_is_enlarged_bicubically_and_opaque_colour_untouched(model: sj.SeemoRe) -> None:
    opaque = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    upscaled = sj.upscale(model, opaque)
    np.testing.assert_array_equal(upscaled[..., :3], sj.upscale(model, RGB))
    assert (upscaled[..., 3] == 255).all()
    alpha = RGB[..., 0] // 2 + 1
    faded = sj.upscale(model, np.dstack([RGB, alpha]))
    np.testing.assert_array_equal(faded[..., 3], sj.imresize(alpha, 2))


def test_colour_hidden_under_transparency_leaves_no_fringe(model: sj.SeemoRe) -> None:
    """Editors store black or white in transparent pixels; it must not appear at visible edges."""
    visible = np.arange(RGB.shape[1]) < 9
    alpha = np.broadcast_to(np.where(visible, 255, 0).astype(np.uint8), RGB.shape[:2])
    results = []
    for hidden in (0, 255):
        image = np.dstack([np.where(visible[None, :, None], RGB, np.uint8(hidden)), alpha])
        results.append(sj.upscale(model, image))
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)],
)
@pytest.mark.usefixtures("unchecked")
def test_other_arrays_are_refused_in_words(model: sj.SeemoRe, image: np.ndarray) -> None:
    with pytest.raises(sj.InputError, match="upscale takes"):
        sj.upscale(model, image)


@pytest.mark.parametrize("factor", [0.5, 1.3, 2.5, 4.7])
@pytest.mark.parametrize("channels", [(), (4,)])
def test_any_factor_is_the_networks_output_resized(model: sj.SeemoRe, channels: tuple[int, ...], factor: float) -> None:
    image = RGB[..., 0] if not channels else np.dstack([RGB, RGB[..., :1] // 2 + 1])
    upscaled = sj.upscale(model, image, outscale=factor)
    assert upscaled.dtype == np.uint8
    assert upscaled.shape == (math.ceil(20 * factor), math.ceil(17 * factor), *channels)
    # The reference rounds to 8 bits between the steps, each time with an error of up to one unit.
    reference = sj.imresize(sj.upscale(model, image), factor / 2)
    assert np.abs(upscaled.astype(int) - reference)[..., :3].max() <= 2


@pytest.mark.parametrize("factor", [0.0, -1.0, 8.1, math.inf, math.nan])
def test_factors_that_mean_nothing_are_refused(model: sj.SeemoRe, factor: float) -> None:
    with pytest.raises(sj.InputError, match="outscale"):
        sj.upscale(model, RGB, outscale=factor)


def test_a_batch_is_each_image_alone(model: sj.SeemoRe) -> None:
    """The batch is padded in one of the cases."""
    batch = [np.round(image * 255).astype(np.uint8) for image in images(3, 9, 14)]
    for image, upscaled in zip(batch, upscale_images(model, batch, batch_size=4), strict=True):
        assert np.abs(upscaled.image.astype(int) - sj.upscale(model, image)).max() <= 1
    with pytest.raises(sj.InputError, match="one shape"):
        upscale_images(model, [RGB, RGB[:5]])


def test_keywords_work_under_their_old_names_with_a_notice(model: sj.SeemoRe) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    with pytest.warns(FutureWarning, match=r"upscale\(tile=…\) is now upscale\(strip_rows=…\)"):
        np.testing.assert_array_equal(sj.upscale(model, image, tile=8), sj.upscale(model, image, strip_rows=8))
    with pytest.raises(TypeError, match="unexpected keyword argument 'tiles'"):
        sj.upscale(model, image, tiles=8)
