"""Self-ensemble: the mean over an image's eight flips and transposes, a little PSNR for eight times the time."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

# LR (N, H, W, C) to SR (N, s·H, s·W, C), of any size.
Network = Callable[[Array], Array]

_FLIPS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))


def self_ensemble(network: Network, lr: Float[Array, "n h w c"]) -> Float[Array, "n sh sw c"]:
    """The mean of what `network` makes of the eight versions of a batch, each turned back.

    They go through it one after the other, so that it needs no more memory than once; two sizes, H×W and W×H,
    reach it.

    Source: Timofte et al., *Seven ways to improve example-based single image super resolution*, CVPR 2016.
    """
    total = jnp.zeros((), jnp.float32)
    for transpose in (False, True):
        for axes in _FLIPS:
            turned = jnp.flip(lr.swapaxes(1, 2) if transpose else lr, axes)
            sr = jnp.flip(network(turned), axes)
            total = total + (sr.swapaxes(1, 2) if transpose else sr)
    return total / (2 * len(_FLIPS))
