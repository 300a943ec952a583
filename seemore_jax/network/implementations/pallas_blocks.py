"""Blocks of the network for TPU kernels, as stages.

A convolution is computed as one matrix product. Copies of the input, shifted by each column offset, are stacked along
the channels. The product has one part for each row offset; these parts are shifted and summed. The matrix of a
depthwise convolution consists of diagonal matrices. Most of its products are zero, but the matrix unit is otherwise
idle here, and the vector units are the bottleneck.
"""

import functools
from collections.abc import Sequence

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

_NEIGHBOURS = (-1, 0, 1)
STEPS = (-2, -1, 0, 1, 2)  # offsets of taps from the group of `row_stripe_groups`, away from the centre


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
) -> Float[Array, "d chunk"]:
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


def _stripe_along_rows(
    kernel_size: int, env: StageEnvironment, weights: BlockWeights, query: Array
) -> tuple[Array, ...]:
    """Returns the depthwise 1×k convolution of the query.

    The offset of a tap is the offset of its group plus a step of at most two pixels away from the centre. Each part of
    the product sums the three taps of a group, and is then shifted by the offset of the group. The pixel at this offset
    lies between the output pixel and the tap. If it is outside of the row, so is the tap; so both shifts may be masked.
    """
    shifted = [env.shifted(query, step) * env.mask(step) if step else query for step in STEPS]
    groups = row_stripe_groups(kernel_size)
    outputs = env.arithmetic.parts(env.product(weights["row"], stacked(shifted)), len(groups))
    moved = [
        env.crop(env.shifted(one, group)) * env.crop(env.mask(group)) if group else env.crop(one)
        for one, group in zip(outputs, groups, strict=True)
    ]
    return (sum(moved[1:], start=moved[0]) + weights["row_bias"],)


def row_stripe_groups(kernel_size: int) -> list[int]:
    """Returns the offset of each group of three consecutive taps of a stripe along rows: its tap nearest to the centre.

    For 11 taps, they are 0, 3, −1 and −4. The last group contains the offsets −4 to −6; offset −6 has no tap.

    Args:
      kernel_size: number of taps.
    """
    reach = kernel_size // 2
    return [*range(0, reach + 1, 3), *range(-1, -reach - 1, -3)]


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


def _deep(env: StageEnvironment, weights: BlockWeights, shallow: Array, normalized: Array) -> tuple[Array, ...]:
    """Returns conv3(normalized) + shallow."""
    convolved = _convolve(env, weights["deep"], normalized, _NEIGHBOURS, _NEIGHBOURS) + weights["deep_bias"]
    return (convolved + shallow,)


def _pixel_values(env: StageEnvironment, weights: BlockWeights, deep: Array) -> tuple[Array, ...]:
    return (_convolve(env, weights["values"], deep, _NEIGHBOURS, _NEIGHBOURS) + weights["values_bias"],)


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
                functools.partial(_stripe_along_rows, kernel_size),
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
        reach=max(reach, STEPS[-1]),
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


@functools.cache  # equal blocks are one object and share compiled programs
def reconstruction(shape: MapShape, scale: int) -> Block:
    """Returns the block that computes conv3(conv3(LN(x)) + shallow), 3·s² values for each LR pixel.

    Args:
      shape: shape of the feature maps.
      scale: factor s of the upscaling.
    """
    halo = _halo(shape, 1, 1)
    return Block(
        "reconstruction",
        (
            Stage(_normalized, _with_biases("norm"), ("x",), ("normalized",)),
            Stage(
                _deep,
                _with_biases("deep"),
                ("shallow", "normalized"),
                ("deep",),
                halo=halo,
                around=("normalized",),
            ),
            Stage(_pixel_values, _with_biases("values"), ("deep",), ("values",), halo=halo, around=("deep",)),
        ),
        ("x", "shallow"),
        ("values",),
        reach=1,
        output_rows=round_up(3 * scale**2, SUBLANES),
    )
