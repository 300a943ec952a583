"""Resizes images like MATLAB's `imresize`, with which super-resolution benchmarks make their LR images."""

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt

from seemore_jax.system.errors import InputError

if TYPE_CHECKING:
    import scipy.sparse


def imresize(image: UInt[np.ndarray, "h w *c"], scale: float) -> UInt[np.ndarray, "h2 w2 *c"]:
    """Resizes an 8- or 16-bit image bicubically, like MATLAB.

    Shrinking uses antialiasing. The image is mirrored at its edges. The rows are resized before the columns, and the
    values are rounded to the type of the image after each of the two passes, as MATLAB does for integer images.

    Args:
      image: uint8 or uint16, (H, W) or (H, W, C), not empty.
      scale: the factor of both sides, such as `1 / 4`; positive.

    Returns:
      An image of the same type with the sides ⌈scale·H⌉ and ⌈scale·W⌉.

    Raises:
      InputError: `image` has another type or shape or is empty, or `scale` is not positive.

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
    # MATLAB rounds halves away from zero, while NumPy rounds them to even numbers.
    rounded = np.floor(rows + 0.5).clip(0, np.iinfo(image.dtype).max).astype(image.dtype)
    return rounded.reshape(-1, *image.shape[1:])


def _resize_matrix(length: int, scale: float) -> "scipy.sparse.csr_array":
    """Returns the matrix (new length, length) that resizes along one axis."""
    import scipy.sparse  # takes time to import, and most commands do not need it

    new_length = max(
        1, math.ceil(scale * length - 1e-9)
    )  # 70 · 0.1 must give 7, although floating point gives a little more
    shrink = min(scale, 1.0)
    support = 4 / shrink
    # The centre of each new pixel in the coordinates of the old pixels, and the old pixels that its kernel reaches.
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
    """Computes Keys' cubic convolution kernel with a = −0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _mirror(index: np.ndarray, length: int) -> np.ndarray:
    """Mirrors indices beyond the ends of an axis: … 1 0 | 0 1 … n−1 | n−1 n−2 …."""
    index = index % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)
