"""If these fail, training sees other qualities than its configuration says, or a run cannot be repeated."""

import numpy as np
import pytest

from seemore_jax.data.degradation import CLEAN, FixedDegradation, JpegDegradation
from seemore_jax.data.jpeg import SUBSAMPLINGS, compress
from seemore_jax.system.errors import InputError

RANGE = (30, 95)


def test_draws_have_the_range_and_the_share_of_the_configuration() -> None:
    degradation = JpegDegradation(RANGE, ("4:2:0", "4:4:4"), 0.25)
    rng = np.random.default_rng(0)
    drawn = np.array([degradation.draw(rng) for _ in range(4000)])
    compressed = drawn[drawn[:, 0] != CLEAN]
    assert (compressed[:, 0].min(), compressed[:, 0].max()) == RANGE
    assert np.mean(drawn[:, 0] == CLEAN) == pytest.approx(0.25, abs=0.03)
    assert set(drawn[:, 1]) == {SUBSAMPLINGS.index("4:2:0"), SUBSAMPLINGS.index("4:4:4")}
    assert len(set(compressed[:, 0])) == RANGE[1] - RANGE[0] + 1


def test_the_same_random_numbers_give_the_same_draw() -> None:
    degradation = JpegDegradation(RANGE, SUBSAMPLINGS, 0.5)
    first, second = (degradation.draw(np.random.default_rng(7)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("qualities", "subsamplings", "share", "field"),
    [
        ((0, 50), SUBSAMPLINGS, 0.1, "jpeg_quality"),
        ((60, 50), SUBSAMPLINGS, 0.1, "jpeg_quality"),
        (RANGE, (), 0.1, "jpeg_subsampling"),
        (RANGE, ("4:1:1",), 0.1, "jpeg_subsampling"),
        (RANGE, SUBSAMPLINGS, 1.5, "jpeg_clean_share"),
    ],
)
def test_wrong_settings_are_refused(
    qualities: tuple[int, int], subsamplings: tuple[str, ...], share: float, field: str
) -> None:
    with pytest.raises(InputError, match=field):
        JpegDegradation(qualities, subsamplings, share)


def test_an_evaluation_stores_the_image_as_libjpeg_does() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    np.testing.assert_array_equal(FixedDegradation.of("jpeg:50").apply(image), compress(image, 50))
    np.testing.assert_array_equal(FixedDegradation.of("bicubic").apply(image), image)


@pytest.mark.parametrize("text", ["jpeg", "jpeg:0", "jpeg:101", "jpeg:5x", "blur", ""])
def test_a_wrong_degradation_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected bicubic or jpeg:QUALITY"):
        FixedDegradation.of(text)
