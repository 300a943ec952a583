"""MATLAB's `imresize`, by which the field makes its low-resolution images."""

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt

from seemore_jax.system.errors import InputError

if TYPE_CHECKING:
    import scipy.sparse


def imresize(image: UInt[np.ndarray, "h w *c"], scale: float) -> UInt[np.ndarray, "h2 w2 *c"]:
    """Bicubic resize of an 8- or 16-bit image, as MATLAB computes it for that type.

    With antialiasing when shrinking, edges mirrored, rows before columns, and, as MATLAB does for integer
    images, a rounding to the image's type after each of the two passes.

    Args:
      image: uint8 or uint16, (H, W) or (H, W, C).
      scale: factor of both sides, such as `1 / 4`.

    Returns:
      An image of the same type with sides ⌈scale·H⌉ and ⌈scale·W⌉.

    Raises:
      InputError: another type or shape, an empty image, or a scale that is not positive.

    Source: MATLAB's `imresize.m` (Keys' cubic kernel, a = −0.5). Reproduces Set5's published LR files bit for bit.
    """
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or image.size == 0:
        raise InputError(f"imresize takes a non-empty uint8 or uint16 image, not {image.dtype} of shape {image.shape}")
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"imresize takes a positive scale, not {scale}")
    resized = _resize_rows(image, scale)
    return _resize_rows(resized.swapaxes(0, 1), scale).swapaxes(0, 1)


def _resize_rows(image: np.ndarray, scale: float) -> np.ndarray:
    weights = _resize_matrix(image.shape[0], scale)
    rows = weights @ image.reshape(image.shape[0], -1).astype(np.float64)
    # MATLAB rounds halves away from zero, NumPy to even.
    rounded = np.floor(rows + 0.5).clip(0, np.iinfo(image.dtype).max).astype(image.dtype)
    return rounded.reshape(-1, *image.shape[1:])


def _resize_matrix(length: int, scale: float) -> "scipy.sparse.csr_array":
    """The (new length, length) matrix of a resize along one axis."""
    import scipy.sparse  # here, since most commands start without it, and sooner

    new_length = max(1, math.ceil(scale * length - 1e-9))  # 70 · 0.1 is 7, not a little more
    shrink = min(scale, 1.0)
    support = 4 / shrink
    # Centre of each new pixel among the old ones, and the old pixels that its kernel reaches.
    centre = (np.arange(new_length) + 0.5) / scale - 0.5
    first = np.floor(centre - support / 2).astype(np.int64)
    reached = first[:, None] + np.arange(math.ceil(support) + 2)
    weights = _cubic((centre[:, None] - reached) * shrink)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.broadcast_to(np.arange(new_length)[:, None], reached.shape)
    matrix = scipy.sparse.coo_array(
        (weights.ravel(), (rows.ravel(), _mirror(reached, length).ravel())), shape=(new_length, length)
    )
    return matrix.tocsr()


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel, a = −0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _mirror(index: np.ndarray, length: int) -> np.ndarray:
    """Indices beyond the ends run back: … 1 0 | 0 1 … n−1 | n−1 n−2 …."""
    index = index % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)
