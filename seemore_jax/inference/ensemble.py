"""Self-ensemble: the mean of the results for the eight flips and transposes of an image.

It increases the PSNR a little and takes eight times as long.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Num

from seemore_jax.inference.callbacks import Callbacks

# Function from LR images (N, H, W, C) of any size to SR images (N, s·H, s·W, 3).
Network = Callable[[np.ndarray, Callbacks], np.ndarray]

_FLIPS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))


def self_ensemble(
    network: Network, lr: Num[np.ndarray, "n h w c"], callbacks: Callbacks
) -> Float32[np.ndarray, "n sh sw 3"]:
    """Computes the mean of a network's results for the eight flips and transposes of a batch.

    The network computes the eight versions one after the other, so that the memory is that of one version.

    Args:
      network: function that upscales images of the sizes H×W and W×H.
      lr: low-resolution images.
      callbacks: called with the progress over all versions.

    Returns:
      The mean of the results, each transformed back.

    Source: Timofte et al., *Seven ways to improve example-based single image super resolution*, CVPR 2016.
    """
    versions = [(transpose, axes) for transpose in (False, True) for axes in _FLIPS]
    total = None
    for number, (transpose, axes) in enumerate(versions):
        turned = np.flip(lr.swapaxes(1, 2) if transpose else lr, axes)
        sr = np.flip(network(turned, callbacks.part(number, len(versions))), axes)
        sr = sr.swapaxes(1, 2) if transpose else sr
        total = sr.astype(np.float32) if total is None else np.add(total, sr, out=total)
        callbacks.progress((number + 1) / len(versions))
    assert total is not None
    return total / np.float32(len(versions))
