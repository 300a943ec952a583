"""Upscaling of integer images: any of 8 or 16 bits, grey or colour, with or without transparency."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from flax import nnx
from jaxtyping import Array, Bool, UInt

from seemore_jax.data.imresize import imresize
from seemore_jax.errors import InputError
from seemore_jax.network import SeemoRe

# Luma of ITU-R BT.601, by which a grey image's three upscaled channels become one again.
_LUMA = (0.299, 0.587, 0.114)


def upscale(model: SeemoRe, image: UInt[np.ndarray, "h w *c"]) -> UInt[np.ndarray, "sh sw *c"]:
    """Upscales one image.

    Args:
      model: any SeemoRe; its `config.scale` is the factor s.
      image: uint8 or uint16, over the type's whole range: (H, W) or (H, W, 1) grey, (H, W, 3) RGB, or
        (H, W, 4) RGB with straight alpha.

    Returns:
      An image of s times the size, of the same type and channels, rounded and clipped. Alpha is enlarged
      bicubically; colours under transparent pixels are replaced by those of the nearest visible pixel first,
      so that edges get no fringe.

    Raises:
      InputError: another type or shape, or an empty image.

    One program is compiled for each image size, type and channel count.
    """
    image = np.asarray(image)
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"upscale takes a uint8 or uint16 image, not {image.dtype}")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,), (4,)) or image.size == 0:
        raise InputError(f"upscale takes an image (H, W) or (H, W, 1 | 3 | 4), not {image.shape}")
    if image.shape[2:] == (4,):
        color, alpha = image[..., :3], image[..., 3]
        color = _upscale_color(model, _fill_hidden(color, alpha > 0))
        return np.concatenate([color, imresize(alpha, model.config.scale)[..., None]], axis=-1)
    height, width, *channels = image.shape
    upscaled = _upscale_color(model, image.reshape(height, width, -1))
    return upscaled.reshape(*upscaled.shape[:2], *channels)


def _upscale_color(model: SeemoRe, image: np.ndarray) -> np.ndarray:
    """Upscales a grey (H, W, 1) or RGB (H, W, 3) image."""
    graph, parameters = nnx.split(model)
    return np.asarray(_compiled_upscale(graph, parameters, image[None]))[0]


def upscale_batch(
    graph: nnx.GraphDef[SeemoRe], parameters: nnx.State, images: UInt[Array, "n h w c"]
) -> UInt[Array, "n sh sw c"]:
    """What `upscale` computes for a batch of grey or RGB images; a pure function, to be compiled."""
    peak = jnp.iinfo(images.dtype).max
    lr = images.astype(jnp.float32) / peak
    sr = nnx.merge(graph, parameters)(jnp.broadcast_to(lr, (*lr.shape[:-1], 3)))
    if images.shape[-1] == 1:
        sr = jnp.sum(sr * jnp.asarray(_LUMA), axis=-1, keepdims=True)
    return jnp.round(jnp.clip(sr, 0, 1) * peak).astype(images.dtype)


_compiled_upscale = jax.jit(upscale_batch, static_argnums=0)


def _fill_hidden(color: UInt[np.ndarray, "h w 3"], visible: Bool[np.ndarray, "h w"]) -> UInt[np.ndarray, "h w 3"]:
    """Gives each invisible pixel the colour of the nearest visible one: what is stored there is arbitrary."""
    if visible.all() or not visible.any():
        return color
    rows, columns = scipy.ndimage.distance_transform_edt(~visible, return_distances=False, return_indices=True)
    return color[rows, columns]
