"""The blocks of a residual group as stages, and their weights as matrices that act on channels in sublanes.

Convolutions are products with one matrix: the input, shifted by each column offset, is stacked along the channels, and
what the matrix makes for each row offset is shifted and summed. Depthwise ones have a matrix of diagonals: the matrix
unit has time to spare here, vector units have none.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from seemore_jax.network.implementations.pallas_stages import (
    LANES,
    SUBLANES,
    Block,
    Image,
    Place,
    Stage,
    Weights,
    round_up,
    stacked,
)

_NEIGHBOURS = (-1, 0, 1)


# Stages.


def _linear(place: Place, weights: Weights, name: str, x: Array) -> Array:
    return place.product(weights[name], x) + weights[f"{name}_bias"]


def _norm(place: Place, weights: Weights, x: Array) -> Array:
    return place.normalize(weights["norm"], weights["norm_bias"], x)


def _convolve(
    place: Place,
    matrix: Float[Array, "m k"],
    window: Float[Array, "c window"],
    columns: Sequence[int],
    rows: Sequence[int],
    *,
    inner_bias: bool = False,
) -> Float[Array, "c chunk"]:
    """Σ over rows and columns of matrix[row, column] · (window at that offset): zero padding.

    With `inner_bias`, the masks are stacked below the inputs: what the matrix has for the mask of offset 0 is added
    wherever a row offset stays inside the image.
    """
    shifted = [place.shifted(window, column) * place.mask(column) if column else window for column in columns]
    if inner_bias:
        shifted.append(place.masks)
    outputs = place.arithmetic.parts(place.product(matrix, stacked(shifted)), len(rows))
    width = place.image.width
    moved = [place.crop(place.shifted(one, row * width)) for one, row in zip(outputs, rows, strict=True)]
    return sum(moved[1:], start=moved[0])


def _expand(place: Place, weights: Weights, x: Array) -> tuple[Array, ...]:
    """GELU(conv1(LN(x))) in halves."""
    expanded = _linear(place, weights, "expand", _norm(place, weights, x))
    return place.arithmetic.parts(place.arithmetic.gelu(expanded), 2)


def _gate(place: Place, weights: Weights, x: Array, values: Array, gate: Array) -> tuple[Array, ...]:
    """x + GELU(conv1(values · depthwise3(gate)))."""
    gate = _convolve(place, weights["gate"], gate, _NEIGHBOURS, _NEIGHBOURS) + weights["gate_bias"]
    return (x + place.arithmetic.gelu(_linear(place, weights, "project", values * gate)),)


def _stripe_along_rows(place: Place, weights: Weights, query: Array) -> tuple[Array, ...]:
    reach = weights["row"].shape[1] // place.image.rows // 2
    row = _convolve(place, weights["row"], query, range(-reach, reach + 1), (0,)) + weights["row_bias"]
    return (row,)


def _stripe_along_columns(
    kernel_size: int, place: Place, weights: Weights, x: Array, value: Array, row: Array
) -> tuple[Array, ...]:
    """x + conv1(column(row) · value); three rows of the neighbourhood are stacked, so each output serves three taps."""
    width, centres = place.image.width, stripe_centres(kernel_size)
    stack = stacked([place.shifted(row, offset * width) for offset in _NEIGHBOURS])
    outputs = place.arithmetic.parts(place.product(weights["column"], stack), len(centres))
    moved = [place.crop(place.shifted(one, centre * width)) for one, centre in zip(outputs, centres, strict=True)]
    column = sum(moved[1:], start=moved[0]) + weights["column_bias"]
    return (x + _linear(place, weights, "project", column * value),)


def stripe_centres(kernel_size: int) -> list[int]:
    """Offsets each of which serves itself and its neighbours: the taps of a stripe in threes, from its start.

    Of 11 taps they are −4, −1, 2, 5: together −5 … 6, of which the last is no tap.
    """
    return list(range(1 - kernel_size // 2, kernel_size // 2 + 2, 3))


def _normalized(place: Place, weights: Weights, x: Array) -> tuple[Array, ...]:
    return (_norm(place, weights, x),)


def _embed(place: Place, weights: Weights, normalized: Array) -> tuple[Array, ...]:
    """Features and context: conv1(GELU(conv3(normalized))) in halves."""
    embedded = _convolve(place, weights["embed"], normalized, _NEIGHBOURS, _NEIGHBOURS) + weights["embed_bias"]
    return place.arithmetic.parts(_linear(place, weights, "expand", place.arithmetic.gelu(embedded)), 2)


def _local(place: Place, weights: Weights, features: Array) -> tuple[Array, ...]:
    striped = _convolve(place, weights["local"], features, _NEIGHBOURS, _NEIGHBOURS, inner_bias=True)
    return (place.arithmetic.gelu(striped + weights["local_bias"]),)


def _mix(place: Place, weights: Weights, x: Array, features: Array, context: Array) -> tuple[Array, ...]:
    """x + conv1(features + E(features, context)), with the image's experts in one of the sum of their ranks."""
    rank = _linear(place, weights, "from_features", features) * _linear(place, weights, "from_context", context)
    mixed = features + _linear(place, weights, "up", rank)
    return (x + _linear(place, weights, "project", mixed),)


# Blocks.


def _with_biases(*names: str) -> tuple[str, ...]:
    return tuple(one for name in names for one in (name, f"{name}_bias"))


def _halo(image: Image, rows: int, columns: int) -> int:
    return round_up(rows * image.width + columns, LANES)


@functools.cache  # so that equal blocks are one, and share compiled programs
def feed_forward(image: Image) -> Block:
    """x + GatedFFN(LN(x))."""
    return Block(
        "feed_forward",
        (
            Stage(_expand, _with_biases("norm", "expand"), ("x",), ("values", "gate")),
            Stage(
                _gate,
                _with_biases("gate", "project"),
                ("x", "values", "gate"),
                ("y",),
                halo=_halo(image, 1, 1),
                around=("gate",),
            ),
        ),
        ("x",),
        ("y",),
        reach=1,
    )


@functools.cache  # so that equal blocks are one, and share compiled programs
def enhancement(image: Image, kernel_size: int) -> Block:
    """x + SEE(LN(x))."""
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
                halo=_halo(image, 0, reach),
                around=("query",),
            ),
            Stage(
                functools.partial(_stripe_along_columns, kernel_size),
                _with_biases("column", "project"),
                ("x", "value", "row"),
                ("y",),
                halo=_halo(image, stripe_centres(kernel_size)[-1] + 1, 0),
                around=("row",),
            ),
        ),
        ("x",),
        ("y",),
        reach=max(reach, 1),
    )


@functools.cache  # so that equal blocks are one, and share compiled programs
def embedding(image: Image) -> Block:
    """The features and context of MoRE(LN(x)), before the router: it needs the whole image."""
    halo = _halo(image, 1, 1)
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


@functools.cache  # so that equal blocks are one, and share compiled programs
def mixing() -> Block:
    """x + conv1(mixture of the low-rank experts of (features, context))."""
    names = _with_biases("from_features", "from_context", "up", "project")
    stage = Stage(_mix, names, ("x", "features", "context"), ("y",))
    return Block("mixing", (stage,), ("x", "features", "context"), ("y",), reach=1)


# Weights.


def column(image: Image, values: Float[Array, " c"]) -> Float[Array, "rows 1"]:
    """A value for each channel, zero for the padding."""
    return jnp.pad(values, (0, image.rows - image.channels))[:, None]


def matrix(image: Image, kernel: Float[Array, "c d"]) -> Float[Array, "rows rows"]:
    """A 1×1 convolution's kernel as a matrix that acts from the left."""
    return jnp.pad(kernel, ((0, image.rows - image.channels),) * 2).T


def halves(
    image: Image, layer: nnx.Linear, order: np.ndarray | None = None
) -> tuple[Float[Array, "rows2 rows"], Float[Array, "rows2 1"]]:
    """Matrix and bias of a 1×1 convolution to 2C channels, which `order` rearranges; each half padded by itself."""
    channels = image.channels
    order = np.arange(2 * channels) if order is None else order
    kernel, bias = layer.kernel[...][:, order], bias_of(layer)[order]
    both = (slice(0, channels), slice(channels, None))
    return (
        jnp.concatenate([matrix(image, kernel[:, half]) for half in both]),
        jnp.concatenate([column(image, bias[half]) for half in both]),
    )


def dense_taps(image: Image, kernel: Float[Array, "kh kw c d"]) -> Float[Array, "m k"]:
    """The matrix of `_convolve` for a convolution."""
    extra = (0, image.rows - image.channels)
    padded = jnp.pad(kernel, ((0, 0), (0, 0), extra, extra)).transpose(0, 3, 1, 2)
    return padded.reshape(kernel.shape[0] * image.rows, kernel.shape[1] * image.rows)


def depthwise_taps(image: Image, kernel: Float[Array, "kh kw 1 c"]) -> Float[Array, "m k"]:
    """The matrix of `_convolve` for a depthwise convolution: a diagonal for each tap."""
    padded = jnp.pad(kernel[:, :, 0], ((0, 0), (0, 0), (0, image.rows - image.channels)))
    diagonals = (
        padded.transpose(0, 2, 1)[..., None] * jnp.eye(image.rows, dtype=jnp.float32)[:, None, :]
    )  # (kh, c, kw, c)
    return diagonals.reshape(kernel.shape[0] * image.rows, kernel.shape[1] * image.rows)


def column_stripe_taps(image: Image, kernel: Float[Array, "k 1 1 c"]) -> Float[Array, "m k3"]:
    """The matrix of a column stripe whose taps are taken in threes."""
    size = kernel.shape[0]
    count = len(stripe_centres(size))
    taps = jnp.pad(kernel[:, 0, 0], ((0, 3 * count - size), (0, 0)))
    return depthwise_taps(image, taps.reshape(count, 3, 1, -1))


def local_weights(image: Image, row: nnx.Conv, col: nnx.Conv) -> dict[str, Array]:
    """A 1×3 and a 3×1 stripe as one 3×3 convolution; the first one's bias counts where the second one finds pixels."""
    vertical, horizontal = col.kernel[...], row.kernel[...]
    taps = depthwise_taps(image, vertical * horizontal)
    inner = jnp.concatenate([column(image, vertical[i, 0, 0] * bias_of(row)) for i in range(3)])
    masks = jnp.pad(inner, ((0, 0), (1, SUBLANES - 2)))  # the mask of offset 0 is the second of the masks
    return {"local": jnp.concatenate([taps, masks], axis=1), "local_bias": column(image, bias_of(col))}


def linear_weights(image: Image, **layers: nnx.Linear) -> dict[str, Array]:
    """Matrices and biases of 1×1 convolutions of C channels."""
    weights = {}
    for name, layer in layers.items():
        weights[name] = matrix(image, layer.kernel[...])
        weights[f"{name}_bias"] = column(image, bias_of(layer))
    return weights


def norm_weights(image: Image, norm: nnx.LayerNorm) -> dict[str, Array]:
    """Scale and bias of a LayerNorm."""
    assert norm.scale is not None
    return {"norm": column(image, norm.scale[...]), "norm_bias": column(image, bias_of(norm))}


def bias_of(layer: nnx.Linear | nnx.Conv | nnx.LayerNorm) -> Array:
    """The bias of a layer that has one."""
    assert layer.bias is not None
    return jax.numpy.asarray(layer.bias[...])
