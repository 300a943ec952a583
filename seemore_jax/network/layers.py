"""The layers that SeemoRe is made of, with PyTorch's default initialisation, and its few array operations.

Feature maps are (N, H, W, C) throughout. Parameters are float32; a layer computes in the configuration's
`compute_dtype` and at its `precision`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.depthwise import depthwise_conv_general_dilated


def gelu(x: Array) -> Array:
    """x·Φ(x), where Φ is the normal distribution function."""
    return x * _normal_cdf(x)


@jax.custom_jvp
def _normal_cdf(x: Array) -> Array:
    """Φ(x), with a derivative of its own: that of erfc cannot be used inside `jax.shard_map` in jax 0.12.0."""
    return 0.5 * jax.lax.erfc(-x * math.sqrt(0.5))


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
    """A convolution with bias: zero padding that keeps the size at stride 1, no padding at any other."""
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
    """One filter for each channel; otherwise as `convolution`."""
    return convolution(config, features, features, kernel_size, stride=stride, depthwise=True, rngs=rngs)


def pointwise(
    config: SeemoReConfig, in_features: int, out_features: int, *, use_bias: bool = True, rngs: nnx.Rngs
) -> nnx.Linear:
    """The release's 1×1 convolution: a linear map of the channels at each pixel."""
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
    """LayerNorm over the channels of each pixel, eps 1e-6, affine."""
    return nnx.LayerNorm(
        features,
        epsilon=1e-6,
        dtype=jnp.dtype(config.compute_dtype),
        # E[x²] − E[x]² would lose digits where the mean is large against the deviation.
        use_fast_variance=False,
        scale_init=_constant(1),
        bias_init=_constant(0),
        rngs=rngs,
    )


class Abstract(nnx.Rngs):
    """For a model of which only the shapes are wanted: its parameters are `jax.ShapeDtypeStruct`s.

    As `nnx.eval_shape` gives them, which takes seconds: it traces the random numbers of every parameter.
    """

    def __init__(self) -> None:
        super().__init__(0)

    def params(self) -> None:
        """The key of a parameter: none, which makes a shape."""


def _torch_default(fan_in: int) -> Initializer:
    """U(-1/√fan_in, 1/√fan_in), for weights and biases alike.

    Source: `reset_parameters` in torch.nn.modules.conv and .linear (kaiming_uniform with a = √5).
    """
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array | None, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Any:
        if key is None:
            return jax.ShapeDtypeStruct(shape, dtype)
        # Each length of a draw is a program to compile: powers of 2 are few, where the shapes of a network are many.
        count = math.prod(shape)
        drawn = jax.random.uniform(key, (1 << (count - 1).bit_length(),), dtype, -bound, bound)
        return drawn[:count].reshape(shape)

    return init


def _constant(value: float) -> Initializer:
    def init(key: Array | None, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype) if key is None else jnp.full(shape, value, dtype)

    return init


def _computation(config: SeemoReConfig) -> dict[str, Any]:
    return {"dtype": jnp.dtype(config.compute_dtype), "precision": config.precision}


def pad_to_minimum(image: Float[Array, "n h w c"], min_side: int) -> Float[Array, "n h2 w2 c"]:
    """Repeats the last row and column, at the bottom and right, until each side has `min_side` pixels."""
    missing = [max(0, min_side - side) for side in image.shape[1:3]]
    if not any(missing):
        return image
    return jnp.pad(image, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def channel_shuffle(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Interleaves the two halves of the channels: a0 a1 … b0 b1 … becomes a0 b0 a1 b1 …."""
    *pixels, channels = x.shape
    return x.reshape(*pixels, 2, channels // 2).swapaxes(-1, -2).reshape(*pixels, channels)


def pixel_shuffle(x: Float[Array, "n h w sc"], scale: int) -> Float[Array, "n sh sw c"]:
    """Moves blocks of scale² channels into space: channel c·s² + i·s + j becomes row i, column j of channel c."""
    n, h, w, channels = x.shape
    x = x.reshape(n, h, w, channels // scale**2, scale, scale)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(n, h * scale, w * scale, channels // scale**2)


def resize_bilinear(x: Float[Array, "n h w c"], height: int, width: int) -> Float[Array, "n height width c"]:
    """Bilinear resize with half-pixel centres, no antialiasing, edges repeated (`F.interpolate`'s convention)."""
    n, _, _, c = x.shape
    return jax.image.resize(x, (n, height, width, c), "bilinear", antialias=False)
