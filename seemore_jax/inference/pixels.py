"""Integer images as the network takes them, and back."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt

# Luma of ITU-R BT.601, by which a grey image's three upscaled channels become one again.
_LUMA = (0.299, 0.587, 0.114)


def to_float(images: UInt[Array, "n h w c"]) -> Float[Array, "n h w 3"]:
    """Values in [0, 1]; grey in all three channels."""
    lr = images.astype(jnp.float32) / jnp.iinfo(images.dtype).max
    return jnp.broadcast_to(lr, (*lr.shape[:-1], 3))


def from_float(sr: Float[Array, "n h w 3"], dtype: np.dtype, channels: int) -> Num[Array, "n h w c"]:
    """Values over an integer type's whole range, of one channel or three; of float32, the three as they are."""
    if dtype == np.float32:
        return sr
    if channels == 1:
        sr = jnp.sum(sr * jnp.asarray(_LUMA), axis=-1, keepdims=True)
    peak = jnp.iinfo(dtype).max
    return jnp.round(jnp.clip(sr, 0, 1) * peak).astype(dtype)
