"""Conversions between integer images and the float images of the network."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt

# Weights of the luma of ITU-R BT.601, which converts the upscaled RGB channels of a grey image to one channel.
_LUMA = (0.299, 0.587, 0.114)


def to_float(images: UInt[Array, "n h w c"]) -> Float[Array, "n h w 3"]:
    """Returns integer images as RGB images with values in [0, 1].

    Args:
      images: uint8 or uint16 images, grey (one channel) or RGB, with values over the whole range of the type.
    """
    lr = images.astype(jnp.float32) / jnp.iinfo(images.dtype).max
    return jnp.broadcast_to(lr, (*lr.shape[:-1], 3))


def from_float(sr: Float[Array, "n h w 3"], dtype: np.dtype, channels: int) -> Num[Array, "n h w c"]:
    """Returns float images as integer images, rounded and clipped.

    Args:
      sr: RGB images with values nominally in [0, 1].
      dtype: type of the result: uint8 or uint16, with values over its whole range. float32 returns `sr` unchanged.
      channels: number of channels of the result, 1 or 3.
    """
    if dtype == np.float32:
        return sr
    if channels == 1:
        sr = jnp.sum(sr * jnp.asarray(_LUMA), axis=-1, keepdims=True)
    peak = jnp.iinfo(dtype).max
    return jnp.round(jnp.clip(sr, 0, 1) * peak).astype(dtype)
