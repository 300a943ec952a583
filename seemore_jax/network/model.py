"""This module has the network that users call: for images of any size, by the fastest implementation of the device."""

from typing import Literal, overload

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seemore_jax.network.implementations import chosen_implementation
from seemore_jax.network.layers import pad_to_minimum
from seemore_jax.network.routing import Routing
from seemore_jax.network.seemore import SeemoReNetwork
from seemore_jax.network.valid_region import ValidRegion, repeat_edge
from seemore_jax.system.errors import InputError


class SeemoRe(SeemoReNetwork):
    """SeemoRe for images of any size, on any backend.

    If a side of an image is shorter than `config.min_side` (16 LR pixels for T and B, 4 for L), the image is first
    padded to this length by repetition of its last row or column at the bottom and right. The routers and the context
    use the padded image; the output is cropped.

    Args:
      config: hyperparameters of the network, and options of its computation.
      rngs: source of the initial parameters, which follow PyTorch's default initialisation.
    """

    @overload  # type: ignore[override]  # adds options to the call of `SeemoReNetwork`
    def __call__(
        self,
        lr: Float[Array, "n h w 3"],
        *,
        size: Int[Array, "2"] | None = None,
        return_routing: Literal[False] = False,
    ) -> Float[Array, "n sh sw 3"]: ...

    @overload
    def __call__(
        self, lr: Float[Array, "n h w 3"], *, size: Int[Array, "2"] | None = None, return_routing: Literal[True]
    ) -> tuple[Float[Array, "n sh sw 3"], Routing]: ...

    def __call__(
        self, lr: Float[Array, "n h w 3"], *, size: Int[Array, "2"] | None = None, return_routing: bool = False
    ) -> Float[Array, "n sh sw 3"] | tuple[Float[Array, "n sh sw 3"], Routing]:
        """Upscales a batch of RGB images.

        Args:
          lr: low-resolution images with values in [0, 1], of any size from 1×1.
          size: None if the images fill `lr`. Otherwise they are the upper left part of `lr`, and this is its height and
            width in LR pixels. One compiled program then serves many sizes. The sides of `lr` must be at least
            `config.min_side`. Its other pixels do not influence the images; the output at their places is arbitrary.
          return_routing: whether to return the routers' choices, too.

        Returns:
          float32 images of s times the size, nominally in [0, 1] but not clipped. With `return_routing`, a pair: these
          images, and the `Routing` with the shapes (N, groups, topk) and (N, groups, num_experts).

        Raises:
          InputError: `lr` is not a float array (N, H, W, 3) with at least one pixel.
        """
        _check_input(lr)
        lr = lr.astype(jnp.float32)
        height, width = lr.shape[1:3]
        if size is None:
            lr, region = pad_to_minimum(lr, self.config.min_side), None
        else:
            lr = repeat_edge(lr, ValidRegion.of(*size))
            region = ValidRegion.of(*jnp.maximum(size, self.config.min_side))
        sr, routing = chosen_implementation(self.config)(self, lr, region)
        sr = sr[:, : height * self.config.scale, : width * self.config.scale]
        return (sr, routing) if return_routing else sr


def _check_input(lr: Array) -> None:
    """Raises InputError if `lr` is not a float array (N, H, W, 3) with at least one pixel."""
    shape, dtype = getattr(lr, "shape", None), getattr(lr, "dtype", None)
    if shape is None or dtype is None:
        raise InputError(f"SeemoRe takes an array (N, H, W, 3), not {type(lr).__name__}")
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape[:3]:
        raise InputError(f"SeemoRe takes images of shape (N, H, W, 3) with at least one pixel, not {shape}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"SeemoRe takes float values in [0, 1], not {dtype}; `upscale` takes integer images")
