"""If these fail, scores cannot be compared with the literature."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

import seemore_jax as sj
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.evaluation.benchmark import Scores, bicubic_upscaler, evaluate_images

# The scores of bicubic upscaling from the metric code of the release.
BICUBIC = {
    ("Set5", 2): (33.6734, 0.93029),
    ("Set5", 3): (30.4033, 0.86891),
    ("Set5", 4): (28.4290, 0.81114),
    ("Set14", 2): (30.3246, 0.86985),
    ("Set14", 3): (27.6311, 0.77588),
    ("Set14", 4): (26.0884, 0.70480),
}
RNG = np.random.default_rng(0)
HR = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
SR = np.clip(HR + RNG.normal(0, 12, HR.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("name", "scale"), BICUBIC)
def test_bicubic_scores_as_in_the_literature(benchmark_data: Path, name: str, scale: int) -> None:
    (image_set,) = find_image_sets([benchmark_data / name], scale)
    images = list(evaluate_images(image_set.pairs, scale, bicubic_upscaler(scale)))
    mean = Scores.mean([image.scores for image in images])
    psnr, ssim = BICUBIC[name, scale]
    assert mean.psnr == pytest.approx(psnr, abs=0.0002)
    assert mean.ssim == pytest.approx(ssim, abs=0.00002)
    assert all(image.scores == image.bicubic_scores for image in images)


def windowed_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Computes the SSIM of one channel with a two-dimensional window, as in the code of the paper."""
    line = cv2.getGaussianKernel(11, 1.5)

    def blur(x: np.ndarray) -> np.ndarray:
        return cv2.filter2D(x, -1, line @ line.T)[5:-5, 5:-5]

    a, b = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    covariance = blur(a * b) - blur(a) * blur(b)
    variances = blur(a * a) - blur(a) ** 2 + blur(b * b) - blur(b) ** 2
    luminance = (2 * blur(a) * blur(b) + c1) / (blur(a) ** 2 + blur(b) ** 2 + c1)
    return float((luminance * (2 * covariance + c2) / (variances + c2)).mean())


def test_ssim_is_that_of_the_paper() -> None:
    def luma(image: np.ndarray) -> np.ndarray:
        return 16 + image[3:-3, 3:-3] @ np.array([65.481, 128.553, 24.966]) / 255

    assert sj.metrics.ssim(SR, HR, shave=3) == pytest.approx(windowed_ssim(luma(SR), luma(HR)), abs=1e-9)
    channels = [windowed_ssim(SR[..., i], HR[..., i]) for i in range(3)]
    assert sj.metrics.ssim(SR, HR, shave=0, y_channel=False) == pytest.approx(np.mean(channels), abs=1e-9)


def test_psnr_of_a_known_error() -> None:
    assert sj.metrics.psnr(HR // 2, HR // 2 + 1, shave=0, y_channel=False) == pytest.approx(20 * math.log10(255))
    one_step_of_luma = 219 / 255
    assert sj.metrics.psnr(HR // 2, HR // 2 + 1, shave=4) == pytest.approx(20 * math.log10(255 / one_step_of_luma))


def test_equal_images_are_perfect() -> None:
    assert sj.metrics.psnr(HR, HR, shave=4) == math.inf
    assert sj.metrics.ssim(HR, HR, shave=4) == pytest.approx(1)


def test_the_border_does_not_count() -> None:
    framed = SR.copy()
    framed[:4], framed[-4:], framed[:, :4], framed[:, -4:] = 0, 0, 0, 0
    assert sj.metrics.psnr(framed, HR, shave=4) == sj.metrics.psnr(SR, HR, shave=4)
    assert sj.metrics.ssim(framed, HR, shave=4) == sj.metrics.ssim(SR, HR, shave=4)


def test_grey_counts_as_three_equal_channels() -> None:
    for metric in (sj.metrics.psnr, sj.metrics.ssim):
        expected = metric(np.repeat(SR[..., :1], 3, axis=2), np.repeat(HR[..., :1], 3, axis=2), shave=2)
        assert metric(SR[..., 0], HR[..., 0], shave=2) == expected
        assert metric(SR[..., :1], HR[..., :1], shave=2) == expected


@pytest.mark.parametrize(
    ("sr", "hr", "shave", "complaint"),
    [
        (SR, HR[:-1], 0, "cannot be compared"),
        (SR.astype(np.float32), HR.astype(np.float32), 0, "uint8"),
        (SR, HR, -1, "left after shaving"),
        (SR, HR, 20, "left after shaving 20"),
        (SR[..., :2], HR[..., :2], 0, "grey or RGB"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_measured_is_refused(sr: np.ndarray, hr: np.ndarray, shave: int, complaint: str) -> None:
    for metric in (sj.metrics.psnr, sj.metrics.ssim):
        with pytest.raises(sj.InputError, match=complaint):
            metric(sr, hr, shave=shave)
    with pytest.raises(sj.InputError, match="fewer than 11×11"):
        sj.metrics.ssim(SR[:18], HR[:18], shave=4)
