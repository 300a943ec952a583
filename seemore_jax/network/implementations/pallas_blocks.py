"""Blocks of a residual group for TPU kernels: their stages, and their weights as matrices.

A convolution is computed as one matrix product. Copies of the input, shifted by each column offset, are stacked along
the channels. The product has one part for each row offset; these parts are shifted and summed. The matrix of a
depthwise convolution consists of diagonal matrices. Most of its products are zero, but the matrix unit is otherwise
idle here, and the vector units are the bottleneck.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from seemore_jax.network.implementations.pallas_arithmetic import stacked
from seemore_jax.network.implementations.pallas_stages import (
    LANES,
    SUBLANES,
    Block,
    BlockWeights,
    MapShape,
    Stage,
    StageEnvironment,
    round_up,
)
from seemore_jax.network.layers import bias_of

_NEIGHBOURS = (-1, 0, 1)


# Stages.


def _linear(env: StageEnvironment, weights: BlockWeights, name: str, x: Array) -> Array:
    return env.product(weights[name], x) + weights[f"{name}_bias"]


def _norm(env: StageEnvironment, weights: BlockWeights, x: Array) -> Array:
    return env.normalize(weights["norm"], weights["norm_bias"], x)


def _convolve(
    env: StageEnvironment,
    matrix: Float[Array, "m k"],
    window: Float[Array, "c window"],
    columns: Sequence[int],
    rows: Sequence[int],
    *,
    inner_bias: bool = False,
) -> Float[Array, "c chunk"]:
    """Returns Σ over row and column offsets of matrix[row, column] · (shifted window), with zero padding.

    With `inner_bias`, the matrix has a column that is added wherever the row offset stays inside the image. For this,
    the masks are stacked below the inputs, and the column is that of the mask of offset 0.
    """
    shifted = [env.shifted(window, column) * env.mask(column) if column else window for column in columns]
    if inner_bias:
        shifted.append(env.masks)
    outputs = env.arithmetic.parts(env.product(matrix, stacked(shifted)), len(rows))
    width = env.shape.width
    moved = [env.crop(env.shifted(one, row * width)) for one, row in zip(outputs, rows, strict=True)]
    return sum(moved[1:], start=moved[0])


def _expand(env: StageEnvironment, weights: BlockWeights, x: Array) -> tuple[Array, ...]:
    """Returns the halves of GELU(conv1(LN(x)))."""
    expanded = _linear(env, weights, "expand", _norm(env, weights, x))
    return env.arithmetic.parts(env.arithmetic.gelu(expanded), 2)


def _gate(env: StageEnvironment, weights: BlockWeights, x: Array, values: Array, gate: Array) -> tuple[Array, ...]:
    """Returns x + GELU(conv1(values · depthwise3(gate)))."""
    gate = _convolve(env, weights["gate"], gate, _NEIGHBOURS, _NEIGHBOURS) + weights["gate_bias"]
    return (x + env.arithmetic.gelu(_linear(env, weights, "project", values * gate)),)


def _stripe_along_rows(env: StageEnvironment, weights: BlockWeights, query: Array) -> tuple[Array, ...]:
    """Returns the depthwise 1×k convolution of the query."""
    reach = weights["row"].shape[1] // env.shape.rows // 2
    row = _convolve(env, weights["row"], query, range(-reach, reach + 1), (0,)) + weights["row_bias"]
    return (row,)


def _stripe_along_columns(
    kernel_size: int, env: StageEnvironment, weights: BlockWeights, x: Array, value: Array, row: Array
) -> tuple[Array, ...]:
    """Returns x + conv1(column(row) · value), where `column` is the depthwise k×1 convolution.

    Three copies of the input, shifted by −1, 0 and 1 rows, are stacked, so that each part of the product sums three
    taps.
    """
    width, centres = env.shape.width, stripe_centres(kernel_size)
    stack = stacked([env.shifted(row, offset * width) for offset in _NEIGHBOURS])
    outputs = env.arithmetic.parts(env.product(weights["column"], stack), len(centres))
    moved = [env.crop(env.shifted(one, centre * width)) for one, centre in zip(outputs, centres, strict=True)]
    column = sum(moved[1:], start=moved[0]) + weights["column_bias"]
    return (x + _linear(env, weights, "project", column * value),)


def stripe_centres(kernel_size: int) -> list[int]:
    """Returns the middle offset of each group of three consecutive taps of a stripe.

    For 11 taps, they are −4, −1, 2 and 5. These groups contain the offsets −5 to 6; offset 6 has no tap and gets zeros.

    Args:
      kernel_size: number of taps.
    """
    return list(range(1 - kernel_size // 2, kernel_size // 2 + 2, 3))


def _normalized(env: StageEnvironment, weights: BlockWeights, x: Array) -> tuple[Array, ...]:
    return (_norm(env, weights, x),)


def _embed(env: StageEnvironment, weights: BlockWeights, normalized: Array) -> tuple[Array, ...]:
    """Returns features (before the striped convolution) and context, the halves of conv1(GELU(conv3(normalized)))."""
    embedded = _convolve(env, weights["embed"], normalized, _NEIGHBOURS, _NEIGHBOURS) + weights["embed_bias"]
    return env.arithmetic.parts(_linear(env, weights, "expand", env.arithmetic.gelu(embedded)), 2)


def _local(env: StageEnvironment, weights: BlockWeights, features: Array) -> tuple[Array, ...]:
    """Returns GELU(striped(features))."""
    striped = _convolve(env, weights["local"], features, _NEIGHBOURS, _NEIGHBOURS, inner_bias=True)
    return (env.arithmetic.gelu(striped + weights["local_bias"]),)


def _mix(env: StageEnvironment, weights: BlockWeights, x: Array, features: Array, context: Array) -> tuple[Array, ...]:
    """Returns x + conv1(features + E(features, context)).

    E is the image's chosen experts, concatenated into one expert of rank Σr.
    """
    rank = _linear(env, weights, "from_features", features) * _linear(env, weights, "from_context", context)
    mixed = features + _linear(env, weights, "up", rank)
    return (x + _linear(env, weights, "project", mixed),)


# Blocks.


def _with_biases(*names: str) -> tuple[str, ...]:
    """Returns the names of weights, each followed by the name of its bias."""
    return tuple(one for name in names for one in (name, f"{name}_bias"))


def _halo(shape: MapShape, rows: int, columns: int) -> int:
    """Returns the number of pixels on each side for a filter that reads this many rows and columns on each side."""
    return round_up(rows * shape.width + columns, LANES)


@functools.cache  # equal blocks are one object and share compiled programs
def feed_forward(shape: MapShape) -> Block:
    """Returns the block that computes x + GatedFFN(LN(x)), in the RME and the SME.

    Args:
      shape: shape of the feature maps.
    """
    return Block(
        "feed_forward",
        (
            Stage(_expand, _with_biases("norm", "expand"), ("x",), ("values", "gate")),
            Stage(
                _gate,
                _with_biases("gate", "project"),
                ("x", "values", "gate"),
                ("y",),
                halo=_halo(shape, 1, 1),
                around=("gate",),
            ),
        ),
        ("x",),
        ("y",),
        reach=1,
    )


@functools.cache  # equal blocks are one object and share compiled programs
def enhancement(shape: MapShape, kernel_size: int) -> Block:
    """Returns the block that computes x + SEE(LN(x)) (paper, section 3.4).

    Args:
      shape: shape of the feature maps.
      kernel_size: length of the striped convolutions in pixels.
    """
    reach = kernel_size // 2
    return Block(
        "enhancement",
        (
            Stage(_expand, _with_biases("norm", "expand"), ("x",), ("query", "value")),
            Stage(
                _stripe_along_rows,
                _with_biases("row"),
                ("query",),
                ("row",),
                halo=_halo(shape, 0, reach),
                around=("query",),
            ),
            Stage(
                functools.partial(_stripe_along_columns, kernel_size),
                _with_biases("column", "project"),
                ("x", "value", "row"),
                ("y",),
                halo=_halo(shape, stripe_centres(kernel_size)[-1] + 1, 0),
                around=("row",),
            ),
        ),
        ("x",),
        ("y",),
        reach=max(reach, 1),
    )


@functools.cache  # equal blocks are one object and share compiled programs
def embedding(shape: MapShape) -> Block:
    """Returns the block that computes the local features and the context of MoRE(LN(x)) (paper, section 3.3).

    Args:
      shape: shape of the feature maps.
    """
    halo = _halo(shape, 1, 1)
    return Block(
        "embedding",
        (
            Stage(_normalized, _with_biases("norm"), ("x",), ("normalized",)),
            Stage(
                _embed,
                _with_biases("embed", "expand"),
                ("normalized",),
                ("embedded", "context"),
                halo=halo,
                around=("normalized",),
            ),
            Stage(_local, ("local", "local_bias"), ("embedded",), ("features",), halo=halo, around=("embedded",)),
        ),
        ("x",),
        ("features", "context"),
        reach=1,
    )


@functools.cache  # equal blocks are one object and share compiled programs
def mixing() -> Block:
    """Returns the block that computes x + conv1(a + E(a, k)) with the chosen experts E (paper, section 3.3)."""
    names = _with_biases("from_features", "from_context", "up", "project")
    stage = Stage(_mix, names, ("x", "features", "context"), ("y",))
    return Block("mixing", (stage,), ("x", "features", "context"), ("y",), reach=1)


# Weights of blocks. Channels are padded with zeros to a multiple of 8 (`shape.rows`).


def column(shape: MapShape, values: Float[Array, " c"]) -> Float[Array, "rows 1"]:
    """Returns one value for each channel as a column.

    Args:
      shape: shape of the feature maps.
      values: one value for each channel.
    """
    return jnp.pad(values, (0, shape.rows - shape.channels))[:, None]


def matrix(shape: MapShape, kernel: Float[Array, "c d"]) -> Float[Array, "rows rows"]:
    """Returns the kernel of a 1×1 convolution as a matrix that multiplies feature maps from the left.

    Args:
      shape: shape of the feature maps.
      kernel: kernel (in, out).
    """
    return jnp.pad(kernel, ((0, shape.rows - shape.channels),) * 2).T


def halves(
    shape: MapShape, layer: nnx.Linear, order: np.ndarray | None = None
) -> tuple[Float[Array, "rows2 rows"], Float[Array, "rows2 1"]]:
    """Returns the matrix and the bias of a 1×1 convolution to 2C channels; each half of the channels is padded.

    Args:
      shape: shape of the feature maps.
      layer: the convolution.
      order: indices by which the 2C output channels are reordered before; None keeps their order.
    """
    channels = shape.channels
    order = np.arange(2 * channels) if order is None else order
    kernel, bias = layer.kernel[...][:, order], bias_of(layer)[order]
    both = (slice(0, channels), slice(channels, None))
    return (
        jnp.concatenate([matrix(shape, kernel[:, half]) for half in both]),
        jnp.concatenate([column(shape, bias[half]) for half in both]),
    )


def dense_taps(shape: MapShape, kernel: Float[Array, "kh kw c d"]) -> Float[Array, "m k"]:
    """Returns the matrix of a dense convolution.

    Args:
      shape: shape of the feature maps.
      kernel: kernel (KH, KW, in, out).

    Returns:
      A matrix (KH·rows, KW·rows): one part for each row offset, and one column block for each column offset.
    """
    extra = (0, shape.rows - shape.channels)
    padded = jnp.pad(kernel, ((0, 0), (0, 0), extra, extra)).transpose(0, 3, 1, 2)
    return padded.reshape(kernel.shape[0] * shape.rows, kernel.shape[1] * shape.rows)


def depthwise_taps(shape: MapShape, kernel: Float[Array, "kh kw 1 c"]) -> Float[Array, "m k"]:
    """Returns the matrix of a depthwise convolution, which has one diagonal matrix for each tap.

    Args:
      shape: shape of the feature maps.
      kernel: kernel (KH, KW, 1, C).

    Returns:
      A matrix (KH·rows, KW·rows), as for `dense_taps`.
    """
    padded = jnp.pad(kernel[:, :, 0], ((0, 0), (0, 0), (0, shape.rows - shape.channels)))
    diagonals = (
        padded.transpose(0, 2, 1)[..., None] * jnp.eye(shape.rows, dtype=jnp.float32)[:, None, :]
    )  # (kh, c, kw, c)
    return diagonals.reshape(kernel.shape[0] * shape.rows, kernel.shape[1] * shape.rows)


def column_stripe_taps(shape: MapShape, kernel: Float[Array, "k 1 1 c"]) -> Float[Array, "m k3"]:
    """Returns the matrix of a k×1 stripe with groups of three taps, as `stripe_centres` describes them.

    Args:
      shape: shape of the feature maps.
      kernel: kernel (k, 1, 1, C).
    """
    size = kernel.shape[0]
    count = len(stripe_centres(size))
    taps = jnp.pad(kernel[:, 0, 0], ((0, 3 * count - size), (0, 0)))
    return depthwise_taps(shape, taps.reshape(count, 3, 1, -1))


def local_weights(shape: MapShape, row: nnx.Conv, col: nnx.Conv) -> dict[str, Array]:
    """Returns the weights of a 1×3 and a 3×1 stripe as one 3×3 depthwise convolution.

    The bias of the row filter passes through the column filter, which pads with zeros. Therefore it is added only where
    the taps of the column filter are inside the image (`inner_bias` of `_convolve`).

    Args:
      shape: shape of the feature maps.
      row: depthwise 1×3 convolution.
      col: depthwise 3×1 convolution.
    """
    vertical, horizontal = col.kernel[...], row.kernel[...]
    taps = depthwise_taps(shape, vertical * horizontal)
    inner = jnp.concatenate([column(shape, vertical[i, 0, 0] * bias_of(row)) for i in range(3)])
    masks = jnp.pad(inner, ((0, 0), (1, SUBLANES - 2)))  # the second mask has offset 0
    return {"local": jnp.concatenate([taps, masks], axis=1), "local_bias": column(shape, bias_of(col))}


def linear_weights(shape: MapShape, **layers: nnx.Linear) -> dict[str, Array]:
    """Returns the matrices and biases of 1×1 convolutions from C to C channels.

    Args:
      shape: shape of the feature maps.
      **layers: the convolutions by the names of their matrices.
    """
    weights = {}
    for name, layer in layers.items():
        weights[name] = matrix(shape, layer.kernel[...])
        weights[f"{name}_bias"] = column(shape, bias_of(layer))
    return weights


def norm_weights(shape: MapShape, norm: nnx.LayerNorm) -> dict[str, Array]:
    """Returns the scale and the bias of a LayerNorm.

    Args:
      shape: shape of the feature maps.
      norm: the LayerNorm.
    """
    assert norm.scale is not None
    return {"norm": column(shape, norm.scale[...]), "norm_bias": column(shape, bias_of(norm))}
