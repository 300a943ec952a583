"""The release's training loss."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

FFT_WEIGHT = 0.1


class LossTerms(NamedTuple):
    """The two terms, each a mean over its elements, before weighting."""

    l1: Float[Array, ""]
    fft: Float[Array, ""]

    @property
    def total(self) -> Float[Array, ""]:
        """L1 + 0.1 · FFT-L1."""
        return self.l1 + FFT_WEIGHT * self.fft


def loss_terms(sr: Float[Array, "n h w c"], hr: Float[Array, "n h w c"]) -> LossTerms:
    """L1 of the images, and L1 of the real and imaginary parts of their unnormalised real 2-D FFT.

    The FFT is linear, so one of the difference serves for both images.

    Args:
      sr: the network's output, float32.
      hr: the target, values in [0, 1].

    Source: `L1Loss` and `FFTLoss` of the release (basicsr/losses/losses.py).
    """
    difference = sr - hr
    spectrum = jnp.fft.rfft2(difference, axes=(1, 2))
    fft = (jnp.mean(jnp.abs(spectrum.real)) + jnp.mean(jnp.abs(spectrum.imag))) / 2
    return LossTerms(jnp.mean(jnp.abs(difference)), fft)
