"""The training loss of the release: L1, and L1 of the spectrum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FFT_WEIGHT = 0.1


class LossTerms(NamedTuple):
    """The terms of the loss before weighting: mean absolute differences of pixels, and of the parts of the spectrum."""

    l1: Float[Array, ""]
    fft: Float[Array, ""]

    @property
    def total(self) -> Float[Array, ""]:
        """The loss, L1 + 0.1 · FFT-L1."""
        return self.l1 + FFT_WEIGHT * self.fft


def loss_terms(sr: Float[Array, "n h w c"], hr: Float[Array, "n h w c"]) -> LossTerms:
    """Computes L1 of the images, and L1 of the real and imaginary parts of their unnormalised real 2-D FFT.

    The FFT is linear, so the FFT of the difference is enough.

    Args:
      sr: the network's output, nominally in [0, 1].
      hr: the target, in [0, 1].

    Source: `L1Loss` and `FFTLoss` of the release (basicsr/losses/losses.py).
    """
    difference = sr - hr
    # On a TPU, the FFT and its gradient take long to compile and pass over padded arrays several times.
    real, imaginary = jax.lax.platform_dependent(difference, tpu=spectrum_by_products, default=spectrum_by_fft)
    fft = (jnp.mean(jnp.abs(real)) + jnp.mean(jnp.abs(imaginary))) / 2
    return LossTerms(jnp.mean(jnp.abs(difference)), fft)


def spectrum_by_fft(images: Float[Array, "n h w c"]) -> tuple[Float[Array, "n c h k"], Float[Array, "n c h k"]]:
    """Computes real and imaginary part of the unnormalised real 2-D FFT, by XLA's FFT.

    Args:
      images: real images.

    Returns:
      Both parts, with k = w // 2 + 1.
    """
    spectrum = jnp.fft.rfft2(images.transpose(0, 3, 1, 2))
    return spectrum.real, spectrum.imag


def spectrum_by_products(images: Float[Array, "n h w c"]) -> tuple[Float[Array, "n c h k"], Float[Array, "n c h k"]]:
    """Computes the same as `spectrum_by_fft` by products with the matrices of the two 1-D transforms, in float32.

    Args:
      images: real images.

    Returns:
      Both parts, with k = w // 2 + 1.
    """
    height, width = images.shape[1:3]
    along_width, along_height = _fourier(width)[:, : width // 2 + 1], _fourier(height)

    def product(matrix: np.ndarray, x: Array) -> Array:
        return jnp.einsum("hg,ncgk->nchk", matrix.astype(np.float32), x, precision="highest")

    def right_product(x: Array, matrix: np.ndarray) -> Array:
        return jnp.einsum("ncgw,wk->ncgk", x, matrix.astype(np.float32), precision="highest")

    x = images.transpose(0, 3, 1, 2)
    real, imaginary = right_product(x, along_width.real), right_product(x, along_width.imag)
    return (
        product(along_height.real, real) - product(along_height.imag, imaginary),
        product(along_height.real, imaginary) + product(along_height.imag, real),
    )


def _fourier(size: int) -> np.ndarray:
    """Returns the symmetric matrix of the discrete Fourier transform. Whole turns are dropped before rounding."""
    steps = np.arange(size)
    return np.exp(-2j * np.pi * (np.outer(steps, steps) % size) / size)
