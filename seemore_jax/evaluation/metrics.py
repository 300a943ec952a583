"""PSNR and SSIM as the super-resolution literature measures them.

8-bit images, `shave` pixels off each side, and by default only the luma Y of ITU-R BT.601 in its 16–235 range,
not rounded. A grey image counts as one with three equal channels.
"""

import math

import numpy as np
from jaxtyping import Float64, UInt8

from seemore_jax.system.errors import InputError

_PEAK = 255.0
_BT601 = np.array([65.481, 128.553, 24.966]) / 255
_SSIM_WINDOW = 11


def psnr(
    sr: UInt8[np.ndarray, "h w *c"], hr: UInt8[np.ndarray, "h w *c"], *, shave: int, y_channel: bool = True
) -> float:
    """Peak signal-to-noise ratio in dB, 10·log₁₀(255² / mean squared error); infinite for equal images.

    Args:
      sr: uint8 image (H, W) or (H, W, 3).
      hr: the image to compare with, of the same shape.
      shave: pixels left out on each side; the literature takes the scale.
      y_channel: compare the luma; otherwise all three channels.

    Raises:
      InputError: not uint8, shapes that differ, or nothing left after shaving.
    """
    sr_values, hr_values = _prepare(sr, hr, shave, y_channel, minimum=1)
    error = float(np.mean((sr_values - hr_values) ** 2))
    return math.inf if error == 0 else 10 * math.log10(_PEAK**2 / error)


def ssim(
    sr: UInt8[np.ndarray, "h w *c"], hr: UInt8[np.ndarray, "h w *c"], *, shave: int, y_channel: bool = True
) -> float:
    """Structural similarity in [-1, 1]; 1 for equal images. Arguments and errors as for `psnr`.

    With an 11×11 Gaussian window of σ 1.5, in float64, averaged over the positions where the window lies
    inside the image, and over channels if there are several; so 11 pixels must be left after shaving.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    from skimage.metrics import structural_similarity  # takes a while, and only an evaluation needs it

    sr_values, hr_values = _prepare(sr, hr, shave, y_channel, minimum=_SSIM_WINDOW)
    return float(
        structural_similarity(
            sr_values,
            hr_values,
            data_range=_PEAK,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def _prepare(
    sr: np.ndarray, hr: np.ndarray, shave: int, y_channel: bool, minimum: int
) -> tuple[Float64[np.ndarray, "h w c"], Float64[np.ndarray, "h w c"]]:
    if sr.shape != hr.shape:
        raise InputError(f"images of shapes {sr.shape} and {hr.shape} cannot be compared")
    for image in (sr, hr):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)):
            raise InputError(f"metrics take uint8 images, grey or RGB, not {image.dtype} of shape {image.shape}")
    if shave < 0 or min(sr.shape[:2]) - 2 * shave < minimum:
        raise InputError(
            f"an image of {sr.shape[1]}×{sr.shape[0]} has fewer than {minimum}×{minimum} pixels "
            f"left after shaving {shave} from each side"
        )
    window = slice(shave, -shave or None)
    return _values(sr[window, window], y_channel), _values(hr[window, window], y_channel)


def _values(image: np.ndarray, y_channel: bool) -> Float64[np.ndarray, "h w c"]:
    values = image.reshape(*image.shape[:2], -1).astype(np.float64)
    rgb = np.broadcast_to(values, (*values.shape[:2], 3))
    return (rgb @ _BT601 + 16)[..., None] if y_channel else rgb
