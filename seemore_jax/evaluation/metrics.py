"""Computes PSNR and SSIM by the protocol of the super-resolution literature.

The images have 8 bits. `shave` pixels are left out at each side. By default, the metrics compare only the luma Y of
ITU-R BT.601 in the range 16–235, which is not rounded. A grey image is taken as RGB with three equal channels.
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
    """Computes the peak signal-to-noise ratio, 10·log₁₀(255² / mean squared error).

    Args:
      sr: the image, uint8, (H, W) or (H, W, 3).
      hr: the image to compare with, of the same shape.
      shave: the number of pixels to leave out at each side; the literature takes the scale.
      y_channel: whether to compare the luma; otherwise, all three channels are compared.

    Returns:
      The ratio in dB, which is infinite for equal images.

    Raises:
      InputError: the images are not uint8, their shapes differ, or no pixel is left after shaving.
    """
    sr_values, hr_values = _prepare(sr, hr, shave, y_channel, minimum=1)
    error = float(np.mean((sr_values - hr_values) ** 2))
    return math.inf if error == 0 else 10 * math.log10(_PEAK**2 / error)


def ssim(
    sr: UInt8[np.ndarray, "h w *c"], hr: UInt8[np.ndarray, "h w *c"], *, shave: int, y_channel: bool = True
) -> float:
    """Computes the structural similarity in float64, with a Gaussian window of 11×11 pixels and σ = 1.5.

    The result is the mean over the positions at which the window lies inside the image, and over the channels.

    Args:
      sr: the image, uint8, (H, W) or (H, W, 3).
      hr: the image to compare with, of the same shape.
      shave: the number of pixels to leave out at each side; the literature takes the scale.
      y_channel: whether to compare the luma; otherwise, all three channels are compared.

    Returns:
      The similarity from -1 to 1, which is 1 for equal images.

    Raises:
      InputError: the images are not uint8, their shapes differ, or fewer than 11×11 pixels are left after shaving.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    from skimage.metrics import structural_similarity  # takes time to import, and only evaluations need it

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
