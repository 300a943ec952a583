"""Layers and array operations of SeemoRe.

Feature maps are (N, H, W, C). Parameters are float32 and have PyTorch's default initialisation. Layers compute in the
configuration's `compute_dtype` and at its `precision`.
"""

import math
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.depthwise import depthwise_conv_general_dilated
from seemore_jax.system.devices import target_backend


def gelu(x: Array) -> Array:
    """Computes GELU: x·Φ(x), where Φ is the normal distribution function.

    Args:
      x: an array of any shape.

    Returns:
      An array of the same shape.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * _normal_cdf(wide)).astype(x.dtype)


@jax.custom_jvp
def _normal_cdf(x: Array) -> Array:
    """Computes Φ(x) from erf, as PyTorch does; on GPUs, XLA makes several times as much code of erfc.

    The derivative is its own, because the one that JAX has for erf keeps more arrays for the backward pass.
    """
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@_normal_cdf.defjvp
def _normal_cdf_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return _normal_cdf(x), tangent * (math.sqrt(0.5 / math.pi) * jnp.exp(-0.5 * x * x))


def convolution(
    config: SeemoReConfig,
    in_features: int,
    out_features: int,
    kernel_size: tuple[int, int],
    *,
    stride: int = 1,
    depthwise: bool = False,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Makes a convolution with bias.

    Args:
      config: configuration of the network, for the type and the precision.
      in_features, out_features: numbers of channels.
      kernel_size: height and width of the kernel in pixels.
      stride: stride along height and width. Zero padding keeps the size if it is 1; otherwise, there is no padding.
      depthwise: whether there is one filter for each channel.
      rngs: source of the initial parameters.

    Returns:
      The layer, with a kernel (KH, KW, in, out), or (KH, KW, 1, out) if depthwise, and a bias (out,).
    """
    groups = in_features if depthwise else 1
    fan_in = math.prod(kernel_size) * in_features // groups
    return nnx.Conv(
        in_features,
        out_features,
        kernel_size,
        strides=stride,
        padding="SAME" if stride == 1 else "VALID",
        feature_group_count=groups,
        conv_general_dilated=depthwise_conv_general_dilated if depthwise else jax.lax.conv_general_dilated,
        kernel_init=_torch_default(fan_in),
        bias_init=_torch_default(fan_in),
        rngs=rngs,
        **_computation(config),
    )


def depthwise_convolution(
    config: SeemoReConfig, features: int, kernel_size: tuple[int, int], *, stride: int = 1, rngs: nnx.Rngs
) -> nnx.Conv:
    """Makes a depthwise convolution with bias: one filter for each channel.

    Args:
      config: configuration of the network, for the type and the precision.
      features: number of channels.
      kernel_size: height and width of the kernel in pixels.
      stride: stride and padding as for `convolution`.
      rngs: source of the initial parameters.

    Returns:
      The layer, with a kernel (KH, KW, 1, C) and a bias (C,).
    """
    return convolution(config, features, features, kernel_size, stride=stride, depthwise=True, rngs=rngs)


def pointwise(
    config: SeemoReConfig, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs
) -> nnx.Linear:
    """Makes a 1×1 convolution: a linear map of the channels of each pixel.

    Args:
      config: configuration of the network, for the type and the precision.
      in_features, out_features: numbers of channels.
      use_bias: whether the layer has a bias.
      rngs: source of the initial parameters.

    Returns:
      The layer, with a kernel (in, out) and a bias (out,).
    """
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=_torch_default(in_features),
        bias_init=_torch_default(in_features),
        rngs=rngs,
        **_computation(config),
    )


def layer_norm(config: SeemoReConfig, features: int, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Makes a LayerNorm over the channels of each pixel, with epsilon 1e-6, scale and bias.

    Args:
      config: configuration of the network, for the type.
      features: number of channels.
      rngs: source of the initial parameters; they are ones and zeros.

    Returns:
      The layer, with a scale (C,) and a bias (C,).
    """
    return nnx.LayerNorm(
        features,
        epsilon=1e-6,
        dtype=jnp.dtype(config.compute_dtype),
        # The fast variance, E[x²] − E[x]², loses digits if the mean is much larger than the deviation.
        use_fast_variance=False,
        scale_init=_constant(1),
        bias_init=_constant(0),
        rngs=rngs,
    )


class Abstract(nnx.Rngs):
    """Source of parameters that are only shapes, `jax.ShapeDtypeStruct`, for a model without values.

    `nnx.eval_shape(lambda: SeemoRe(config, rngs=nnx.Rngs(0)))` returns the same shapes, but takes much longer, because
    it traces the random key and the random numbers of each parameter. On a CPU with two busy cores (median of three),
    it took 2.7 s for SeemoRe-T and 19 s for SeemoRe-L, and this class 0.13 s and 0.27 s. Even with zeros in place of
    random numbers, `nnx.eval_shape` took 1.3 s and 9.9 s, because it traces the keys.
    """

    def __init__(self) -> None:
        super().__init__(0)

    def params(self) -> None:
        """Returns no key; the initialisers then return a shape."""


def _torch_default(fan_in: int) -> Initializer:
    """Returns the initialiser U(−1/√fan_in, 1/√fan_in) of weights and biases.

    Source: `reset_parameters` in torch.nn.modules.conv and .linear (kaiming_uniform with a = √5).
    """
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array | None, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Any:
        if key is None:
            return jax.ShapeDtypeStruct(shape, dtype)
        # XLA compiles one program for each length of the random array. The length is rounded up to a power of 2, so
        # that the many shapes of a network need few programs.
        count = math.prod(shape)
        drawn = jax.random.uniform(key, (1 << (count - 1).bit_length(),), dtype, -bound, bound)
        return drawn[:count].reshape(shape)

    return init


def _constant(value: float) -> Initializer:
    def init(key: Array | None, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype) if key is None else jnp.full(shape, value, dtype)

    return init


def _computation(config: SeemoReConfig) -> dict[str, Any]:
    """Returns the options of a layer that determine how it computes."""
    return {"dtype": jnp.dtype(config.compute_dtype), "precision": config.precision}


def bias_of(layer: nnx.Linear | nnx.Conv | nnx.LayerNorm) -> Float[Array, " c"]:
    """Returns the bias of a layer.

    Args:
      layer: a layer that has a bias.
    """
    assert layer.bias is not None
    return jnp.asarray(layer.bias[...])


def pad_to_minimum(image: Float[Array, "n h w c"], min_side: int) -> Float[Array, "n h2 w2 c"]:
    """Pads images at the bottom and right, by repetition of the last row and column.

    Args:
      image: images.
      min_side: height and width that the images have at least afterwards, in pixels.

    Returns:
      The padded images; the given images if they are large enough.
    """
    missing = [max(0, min_side - side) for side in image.shape[1:3]]
    if not any(missing):
        return image
    return jnp.pad(image, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def channel_shuffle(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Interleaves the two halves of the channels: a0 a1 … b0 b1 … becomes a0 b0 a1 b1 ….

    Args:
      x: feature maps with an even number of channels.

    Returns:
      Feature maps of the same shape.
    """
    *pixels, channels = x.shape
    return x.reshape(*pixels, 2, channels // 2).swapaxes(-1, -2).reshape(*pixels, channels)


def pixel_shuffle(x: Float[Array, "n h w sc"], scale: int) -> Float[Array, "n sh sw c"]:
    """Rearranges s² channels into blocks of s×s pixels: channel c·s² + i·s + j becomes row i, column j of channel c.

    Args:
      x: feature maps with c·s² channels.
      scale: size s of a block in pixels.

    Returns:
      Feature maps of s times the height and width, with c channels.
    """
    n, h, w, channels = x.shape
    x = x.reshape(n, h, w, channels // scale**2, scale, scale)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(n, h * scale, w * scale, channels // scale**2)


def resize_bilinear(x: Float[Array, "n h w c"], height: int, width: int) -> Float[Array, "n height width c"]:
    """Resizes bilinearly, with half-pixel centres and repeated edges, without antialiasing.

    Args:
      x: feature maps.
      height, width: size of the result in pixels.

    Returns:
      The resized feature maps.

    Source: `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`, which the release uses.
    """
    n, rows, columns, c = x.shape
    whole = not any(map(jax.export.is_symbolic_dim, (height, width))) and height % rows == width % columns == 0
    if whole and target_backend() == "gpu":
        return _enlarge(_enlarge(x.astype(jnp.float32), 2, width // columns), 1, height // rows).astype(x.dtype)
    return jax.image.resize(x, (n, height, width, c), "bilinear", antialias=False)


def _enlarge(x: Float[Array, "n h w c"], axis: int, factor: int) -> Float[Array, "n h2 w2 c"]:
    """Resizes one axis bilinearly by a whole factor: a weighted sum of each value and its two neighbours.

    For a GPU, XLA computes this inside the kernel that reads the result. The matrix products of `jax.image.resize`
    take kernels of their own, which write the result to memory, and transpose it.
    """
    offset = (np.arange(factor) + 0.5) / factor - 0.5
    before, after = np.maximum(-offset, 0), np.maximum(offset, 0)
    itself = np.tile(1 - before - after, (x.shape[axis], 1))
    itself[0] += before  # the edges repeat
    itself[-1] += after

    def weighted(values: Array, weights: np.ndarray) -> Array:
        shape = (*(1,) * axis, *weights.shape, *(1,) * (3 - axis))
        return jnp.expand_dims(values, axis + 1) * weights.astype(np.float32).reshape(shape)

    def moved(by: int) -> Array:
        return jax.lax.pad(x, np.float32(0), [(by, -by, 0) if i == axis else (0, 0, 0) for i in range(4)])

    enlarged = weighted(x, itself) + weighted(moved(1), before[None]) + weighted(moved(-1), after[None])
    return enlarged.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
