"""Self-ensemble: the mean over an image's eight flips and transposes, a little PSNR for eight times the time."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Num

from seemore_jax.inference.callbacks import Callbacks

# LR (N, H, W, C) to SR (N, s·H, s·W, 3), of any size.
Network = Callable[[np.ndarray, Callbacks], np.ndarray]

_FLIPS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))


def self_ensemble(
    network: Network, lr: Num[np.ndarray, "n h w c"], callbacks: Callbacks
) -> Float32[np.ndarray, "n sh sw 3"]:
    """The mean of what `network` makes of the eight versions of a batch, each turned back.

    They go through it one after the other, so that it needs no more memory than once; two sizes, H×W and W×H,
    reach it. `callbacks` is told of the progress of all.

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
