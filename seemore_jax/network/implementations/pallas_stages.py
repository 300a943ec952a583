"""Blocks of the network as stages over chunks of pixels, run by one Pallas kernel with the whole image in VMEM.

Feature maps are (N, C, P): channels in sublanes, the P = H·W pixels of an image in lanes, row after row. A block is a
list of stages. A stage reads chunks of some maps, with their neighbourhood where a convolution follows, and writes the
same chunk of others; only the block's inputs and outputs are in HBM. The backward kernel computes the maps again and
goes through the stages in reverse, each differentiated by JAX where it stands.

The same stages also run without Pallas, an image at once, for images that do not fit into VMEM.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations.fused_operation import Arrays, FusedOperation

LANES = 128
SUBLANES = 8
# Long chunks repeat less of their neighbourhood, short ones leave more in registers: 1024 is a compromise.
_CHUNK = 1024
# Of the 128 MiB of a v5e or v6e; the rest is for what the compiler adds.
_VMEM_BYTES = 100 * 2**20

Weights = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Image:
    """Shape of the feature maps: `channels` of `height`×`width` pixels, and the precision of products."""

    channels: int
    height: int
    width: int
    precision: jax.lax.Precision | None

    @classmethod
    def of(cls, height: int, width: int, config: SeemoReConfig) -> "Image":
        """The maps of a network on images of this size."""
        bfloat16 = config.compute_dtype == "bfloat16" or config.precision == "default"
        # Mosaic knows two: one pass in bfloat16, and float32.
        precision = None if bfloat16 else jax.lax.Precision.HIGHEST
        return cls(config.embedding_dim, height, width, precision)

    @property
    def pixels(self) -> int:
        """H·W."""
        return self.height * self.width

    @property
    def rows(self) -> int:
        """Channels with their padding to whole sublanes."""
        return round_up(self.channels, SUBLANES)

    @property
    def chunk(self) -> int:
        """Pixels in a chunk."""
        return min(_CHUNK, round_up(self.pixels, LANES))

    @property
    def lanes(self) -> int:
        """Pixels with their padding to whole chunks."""
        return round_up(self.pixels, self.chunk)


class Place(NamedTuple):
    """Where a stage is: the image, the columns' masks around the chunk, and how lanes are rotated there.

    Attributes:
      image: shape of the maps.
      masks: for each column offset from −reach to reach, 1 where the pixel at that offset is in the image's row.
      reach: the largest column offset.
      chunk: pixels in the chunk.
      arithmetic: how the operations are computed there.
    """

    image: Image
    masks: Float[Array, "offsets window"]
    reach: int
    chunk: int
    arithmetic: "Arithmetic"

    def mask(self, offset: int) -> Float[Array, "1 window"]:
        """The mask of a column offset."""
        return self.masks[self.reach + offset : self.reach + offset + 1]

    def crop(self, window: Float[Array, "c window"]) -> Float[Array, "c chunk"]:
        """A window without its neighbourhood."""
        return self.arithmetic.crop(window, self.chunk)

    def shifted(self, window: Float[Array, "c window"], lanes: int) -> Float[Array, "c window"]:
        """The window's pixel p + lanes at p; what comes around the end is not meant to be used."""
        return self.arithmetic.shifted(window, lanes) if lanes else window

    def product(self, matrix: Float[Array, "m k"], x: Float[Array, "k p"]) -> Float[Array, "m p"]:
        """matrix · x, as `Arithmetic.product` at the image's precision."""
        return self.arithmetic.product(self.image.precision, matrix, x)

    def normalize(
        self, scale: Float[Array, "rows 1"], bias: Float[Array, "rows 1"], x: Float[Array, "rows p"]
    ) -> Float[Array, "rows p"]:
        """LayerNorm over the image's channels, as `Arithmetic.normalize`."""
        return self.arithmetic.normalize(self.image.channels, scale, bias, x)


class Stage(NamedTuple):
    """A step of a block.

    Attributes:
      function: (place, weights, *windows) to a tuple of chunks.
      weights: names of those that it uses.
      reads: names of maps.
      writes: names of maps.
      halo: pixels on each side that a window has beyond its chunk, for the maps in `around`.
      around: which of the maps in `reads` are read with their neighbourhood.
    """

    function: Callable[..., tuple[Array, ...]]
    weights: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    halo: int = 0
    around: tuple[str, ...] = ()

    def halo_of(self, name: str) -> int:
        """Pixels of neighbourhood that this map is read with."""
        return self.halo if name in self.around else 0


@dataclasses.dataclass(frozen=True)
class Block:
    """Stages, and which of their maps come from and go to HBM.

    Attributes:
      name: of the kernels.
      stages: in order.
      inputs: maps that are given; they are read without neighbourhood.
      outputs: maps that are returned; no stage reads them.
      reach: the largest column offset in any stage.
    """

    name: str
    stages: tuple[Stage, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reach: int

    @property
    def buffers(self) -> tuple[str, ...]:
        """Maps that stay in VMEM."""
        written = [name for stage in self.stages for name in stage.writes]
        return tuple(name for name in written if name not in self.outputs)

    @property
    def halo(self) -> int:
        """The largest neighbourhood of any stage."""
        return max(stage.halo for stage in self.stages)

    def fits(self, image: Image) -> bool:
        """Whether the backward kernel's maps fit into VMEM; the forward kernel needs fewer."""
        row = image.rows * (image.lanes + 2 * self.halo) * 4
        buffers = 2 * len(self.buffers) + len(self.inputs)
        streamed = 2 * (2 * len(self.inputs) + len(self.outputs))  # two of each, in at most float32
        masks = round_up(2 * self.reach + 1, SUBLANES) * (image.lanes + 2 * self.halo) * 4
        return (buffers + streamed) * row + 2 * masks < _VMEM_BYTES


def round_up(value: int, multiple: int) -> int:
    """The next multiple."""
    return math.ceil(value / multiple) * multiple


def apply(
    block: Block,
    image: Image,
    weights: Weights,
    per_image: Weights,
    maps: Sequence[Float[Array, "n rows lanes"]],
) -> tuple[Float[Array, "n rows lanes"], ...]:
    """The block's outputs: by the Pallas kernel where the image fits into VMEM, else by XLA.

    Args:
      block: what to compute.
      image: shape of the maps, whose arrays are padded to (N, `image.rows`, `image.lanes`).
      weights: matrices and columns, the same for all images, float32.
      per_image: those that each image has its own of, (N, …).
      maps: the block's inputs, in the compute dtype.
    """
    weights, per_image = dict(weights), dict(per_image)
    if not block.fits(image):
        return _by_xla(block, image, weights, per_image, maps)
    operation = _fused(block, image, tuple(sorted(weights)), tuple(sorted(per_image)))
    return operation(*_leaves(weights), *_leaves(per_image), *maps)


# The kernels.


@functools.cache
def _fused(block: Block, image: Image, shared: tuple[str, ...], own: tuple[str, ...]) -> FusedOperation:
    """The block as an operation on the weights in `shared`, those in `own`, and the maps, in this order."""
    weight_count, map_count = len(shared) + len(own), len(block.inputs)

    def separated(arrays: Sequence[Array]) -> tuple[Weights, Weights, Sequence[Array]]:
        weights = dict(zip(shared, arrays, strict=False))
        per_image = dict(zip(own, arrays[len(shared) :], strict=False))
        return weights, per_image, arrays[weight_count:]

    def plain(*arrays: Array) -> Arrays:
        return _by_xla(block, image, *separated(arrays))

    def forward(*arrays: Array) -> Arrays:
        weights, per_image, maps = separated(arrays)
        results = [jax.ShapeDtypeStruct(maps[0].shape, maps[0].dtype)] * len(block.outputs)
        kernel = functools.partial(_forward_kernel, block, image, shared, own)
        name, buffers = f"{block.name}_forward", len(block.buffers)
        return tuple(_call(block, image, name, kernel, weights, per_image, maps, results, buffers))

    def backward(*arrays: Array) -> Arrays:
        weights, per_image, given = separated(arrays)
        dtype = given[0].dtype
        results = [jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for leaf in arrays[:weight_count]]
        results += [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in given[:map_count]]
        kernel = functools.partial(_backward_kernel, block, image, shared, own)
        name, buffers = f"{block.name}_backward", 2 * len(block.buffers) + len(block.inputs)
        given = [*given[:map_count], *(cotangent.astype(dtype) for cotangent in given[map_count:])]
        return tuple(_call(block, image, name, kernel, weights, per_image, given, results, buffers))

    batched = tuple(range(len(shared), weight_count + map_count))
    return FusedOperation(block.name, plain, forward, backward, batched)


def _leaves(weights: Weights) -> list[Array]:
    return [weights[name] for name in sorted(weights)]


def _call(
    block: Block,
    image: Image,
    name: str,
    kernel: Callable[..., None],
    weights: Weights,
    per_image: Weights,
    maps: Sequence[Array],
    results: Sequence[jax.ShapeDtypeStruct],
    buffers: int,
) -> Sequence[Array]:
    """Runs a kernel for each image in turn: Mosaic's on a TPU, elsewhere the interpreter's.

    Which of the two is decided when the program is lowered, so that a CPU host compiles real kernels for a TPU.
    """
    count = maps[0].shape[0]
    masks = column_masks(image, block.reach, block.halo)
    arguments = [masks, *_leaves(weights), *_leaves(per_image), *maps]

    def spec(array: Any, own: bool) -> pl.BlockSpec:
        if own:
            return pl.BlockSpec((1, *array.shape[1:]), lambda i: (i, *(0,) * (len(array.shape) - 1)))
        return pl.BlockSpec(array.shape, lambda i: (0,) * len(array.shape))

    owned = [array.ndim == 3 for array in arguments]
    call = functools.partial(
        pl.pallas_call,
        kernel,
        grid=(count,),
        in_specs=[spec(array, own) for array, own in zip(arguments, owned, strict=True)],
        out_specs=[spec(array, len(array.shape) == 3) for array in results],
        # Inside a program, the axes of a mesh over which arrays vary play no part.
        out_shape=[result.update(manual_axis_type=jax.sharding.ManualAxisType()) for result in results],
        scratch_shapes=[pltpu.VMEM((image.rows, image.lanes + 2 * block.halo), jnp.float32)] * buffers,
        name=name,
    )
    on_tpu = call(compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_VMEM_BYTES + 16 * 2**20))
    return jax.lax.platform_dependent(*arguments, tpu=on_tpu, default=call(interpret=True))


class _Maps:
    """The maps of one image inside a kernel: float32 chunks out of HBM's blocks and VMEM's buffers.

    A buffer has `halo` zeros on each side, which are what convolutions see beyond the image.
    """

    def __init__(self, block: Block, image: Image, blocks: Mapping[str, Any], buffers: Mapping[str, Any]) -> None:
        self._block, self._image, self._blocks, self._buffers = block, image, blocks, buffers

    def clear(self, names: Sequence[str]) -> None:
        """Zeros, also around the image."""
        for name in names:
            self._buffers[name][...] = jnp.zeros_like(self._buffers[name])

    def read(self, name: str, start: Any, halo: int = 0) -> Array:
        length = self._image.chunk + 2 * halo
        if name in self._blocks:
            return self._blocks[name][0, :, pl.ds(start, length)].astype(jnp.float32)
        return self._buffers[name][:, pl.ds(start + self._block.halo - halo, length)]

    def write(self, name: str, start: Any, chunk: Array) -> None:
        """Outputs that a backward kernel computes again have no place, and are dropped."""
        if name in self._blocks:
            block = self._blocks[name]
            block[0, :, pl.ds(start, self._image.chunk)] = chunk.astype(block.dtype)
        elif name in self._buffers:
            self._buffers[name][:, pl.ds(start + self._block.halo, self._image.chunk)] = chunk

    def add(self, name: str, start: Any, window: Array, halo: int = 0) -> None:
        self._buffers[name][:, pl.ds(start + self._block.halo - halo, window.shape[1])] += window


def _forward_kernel(block: Block, image: Image, shared: Sequence[str], own: Sequence[str], *refs: Any) -> None:
    masks, weights, blocks, rest = _unpack(block, shared, own, refs, block.inputs)
    blocks |= zip(block.outputs, rest[: len(block.outputs)], strict=True)
    buffers = dict(zip(block.buffers, rest[len(block.outputs) :], strict=True))
    maps = _Maps(block, image, blocks, buffers)
    _clear_surroundings(block, maps)
    for stage in block.stages:
        _run(block, image, stage, maps, masks, weights)


def _backward_kernel(block: Block, image: Image, shared: Sequence[str], own: Sequence[str], *refs: Any) -> None:
    given = [*block.inputs, *map(_ct, block.outputs)]
    masks, weights, blocks, rest = _unpack(block, shared, own, refs, given)
    gradients = dict(zip([*shared, *own], rest, strict=False))
    rest = rest[len(gradients) :]
    blocks |= zip(map(_final, block.inputs), rest, strict=False)
    rest = rest[len(block.inputs) :]
    names = [*block.buffers, *map(_ct, block.buffers), *map(_ct, block.inputs)]
    maps = _Maps(block, image, blocks, dict(zip(names, rest, strict=True)))

    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        for name in shared:
            gradients[name][...] = jnp.zeros_like(gradients[name])

    for name in own:
        gradients[name][...] = jnp.zeros_like(gradients[name])
    _clear_surroundings(block, maps)
    for stage in block.stages[:-1]:  # nobody reads what the last one writes
        _run(block, image, stage, maps, masks, weights)
    known = set(block.outputs)
    for i in reversed(range(len(block.stages))):
        first_reader = {name for name in block.inputs if all(name not in s.reads for s in block.stages[:i])}
        _run_backward(block, image, block.stages[i], maps, masks, weights, gradients, known, first_reader)


def _ct(name: str) -> str:
    return f"cotangent of {name}"


def _final(name: str) -> str:
    return f"returned cotangent of {name}"


def _unpack(
    block: Block, shared: Sequence[str], own: Sequence[str], refs: Sequence[Any], given: Sequence[str]
) -> tuple[Any, dict[str, Any], dict[str, Any], Sequence[Any]]:
    """A kernel's references: masks, weights, maps by name, and those that remain."""
    masks, *rest = refs
    weights = dict(zip([*shared, *own], rest, strict=False))
    rest = rest[len(weights) :]
    return masks, weights, dict(zip(given, rest, strict=False)), rest[len(given) :]


def _clear_surroundings(block: Block, maps: _Maps) -> None:
    """Zeros around the maps; they stay for all images, since stages write inside only."""
    around = {name for stage in block.stages for name in stage.around}

    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        maps.clear(sorted(around))


def _loop(image: Image, body: Callable[[Any], None]) -> None:
    """The body for the start of each chunk."""

    @pl.loop(0, image.lanes // image.chunk)
    def _(i: Any) -> None:
        body(pl.multiple_of(i * image.chunk, LANES))


def _load(stage: Stage, weights: Mapping[str, Any]) -> dict[str, Array]:
    used = {name: weights[name] for name in stage.weights}
    return {name: ref[0] if len(ref.shape) == 3 else ref[...] for name, ref in used.items()}


def _place(block: Block, image: Image, stage: Stage, masks: Any, start: Any) -> Place:
    length = image.chunk + 2 * stage.halo
    window = masks[:, pl.ds(start + block.halo - stage.halo, length)]
    return Place(image, window, block.reach, image.chunk, _IN_KERNELS)


def _run(block: Block, image: Image, stage: Stage, maps: _Maps, masks: Any, weights: Mapping[str, Any]) -> None:
    def body(start: Any) -> None:
        place = _place(block, image, stage, masks, start)
        windows = [maps.read(name, start, stage.halo_of(name)) for name in stage.reads]
        chunks = stage.function(place, _load(stage, weights), *windows)
        for name, chunk in zip(stage.writes, chunks, strict=True):
            maps.write(name, start, _inside(place, chunk))

    _loop(image, body)


def _inside(place: Place, chunk: Array) -> Array:
    """Zeros in the lanes beyond the image's last pixel."""
    padded = place.image.lanes != place.image.pixels
    return chunk * place.crop(place.mask(0)) if padded else chunk


def _run_backward(
    block: Block,
    image: Image,
    stage: Stage,
    maps: _Maps,
    masks: Any,
    weights: Mapping[str, Any],
    gradients: Mapping[str, Any],
    known: set[str],
    first_reader: set[str],
) -> None:
    """Adds a stage's part to the cotangents of what it reads, and to the weights' gradients.

    `known` has the maps that have a cotangent already; those that this stage reads are added to it. The cotangent of
    an input is complete with its `first_reader`, and returned.
    """
    maps.clear([_ct(name) for name in stage.around if name not in known])
    known |= set(stage.around)

    def body(start: Any) -> None:
        place = _place(block, image, stage, masks, start)
        windows = [maps.read(name, start, stage.halo_of(name)) for name in stage.reads]

        def function(weights: Weights, *windows: Array) -> tuple[Array, ...]:
            return tuple(_inside(place, chunk) for chunk in stage.function(place, weights, *windows))

        _, pull_back = jax.vjp(function, _load(stage, weights), *windows)
        by_weights, *by_windows = pull_back(tuple(maps.read(_ct(name), start) for name in stage.writes))
        for name in by_weights:
            gradient = gradients[name]
            gradient[...] += by_weights[name].reshape(gradient.shape)
        for name, window in zip(stage.reads, by_windows, strict=True):
            if name in first_reader:
                total = window + maps.read(_ct(name), start) if name in known else window
                maps.write(_final(name), start, total)
            elif name in known:
                maps.add(_ct(name), start, window, stage.halo_of(name))
            else:
                maps.write(_ct(name), start, window)

    _loop(image, body)
    known |= set(stage.reads)


# The same without Pallas.


def _by_xla(
    block: Block, image: Image, weights: Weights, per_image: Weights, maps: Sequence[Array]
) -> tuple[Array, ...]:
    dtype = maps[0].dtype

    def one_image(per_image: Weights, *maps: Array) -> tuple[Array, ...]:
        known = {name: one.astype(jnp.float32) for name, one in zip(block.inputs, maps, strict=True)}
        for stage in block.stages:
            masks = column_masks(image, block.reach, stage.halo)
            place = Place(image, masks, block.reach, image.lanes, _IN_XLA)
            windows = [jnp.pad(known[name], ((0, 0), (stage.halo_of(name),) * 2)) for name in stage.reads]
            chunks = stage.function(place, {**weights, **per_image}, *windows)
            for name, chunk in zip(stage.writes, chunks, strict=True):
                known[name] = _inside(place, chunk).astype(dtype).astype(jnp.float32)
        return tuple(known[name].astype(dtype) for name in block.outputs)

    return jax.vmap(one_image)(dict(per_image), *maps)


def column_masks(image: Image, reach: int, halo: int) -> Float[Array, "offsets lanes"]:
    """For each column offset from −reach to reach, 1 where a pixel at that offset is in the same row of the image.

    Padded to whole sublanes, and with `halo` zeros on each side.
    """
    columns = np.arange(image.pixels) % image.width
    offsets = np.arange(-reach, reach + 1)[:, None]
    inside = (columns + offsets >= 0) & (columns + offsets < image.width)
    rows = round_up(len(offsets), SUBLANES) - len(offsets)
    lanes = image.lanes - image.pixels
    return jnp.asarray(np.pad(inside.astype(np.float32), ((0, rows), (halo, halo + lanes))))


# Operations that stages are made of.


class Arithmetic(NamedTuple):
    """The operations of stages.

    Attributes:
      shifted: (window, lanes) to the window's pixel p + lanes at p, turned around at the end.
      parts: (array, count) to that many equal parts of its rows, the inverse of `stacked`.
      crop: (window, chunk) to the chunk in the middle of the window.
      product: (precision, matrix, x) to matrix · x, in one bfloat16 pass or at a precision; the sum is float32.
      gelu: x to x·Φ(x).
      normalize: (channels, scale, bias, x) to the LayerNorm over the first `channels` rows, eps 1e-6; the others are
        padding, and zero after it.
    """

    shifted: Callable[[Array, int], Array]
    parts: Callable[[Array, int], tuple[Array, ...]]
    crop: Callable[[Array, int], Array]
    product: Callable[[Any, Array, Array], Array]
    gelu: Callable[[Array], Array]
    normalize: Callable[[int, Array, Array, Array], Array]


def stacked(arrays: Sequence[Float[Array, "_ p"]]) -> Float[Array, "rows p"]:
    """Arrays of whole sublanes below each other."""
    return jnp.concatenate(arrays, axis=0)


def _shifted(window: Array, lanes: int) -> Array:
    return jnp.roll(window, -lanes, 1)


def _parts(array: Float[Array, "rows p"], count: int) -> tuple[Float[Array, "_ p"], ...]:
    rows = array.shape[0] // count
    return tuple(array[i * rows : (i + 1) * rows] for i in range(count))


def _crop(window: Array, chunk: int) -> Array:
    halo = (window.shape[1] - chunk) // 2
    return window[:, halo : halo + chunk] if halo else window


def _product(precision: Any, matrix: Float[Array, "m k"], x: Float[Array, "k p"]) -> Float[Array, "m p"]:
    return _dot(precision, matrix, x, 1, 0)


def _dot(precision: Any, a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    return jax.lax.dot_general(
        a, b, (((a_axis,), (b_axis,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def _gelu(x: Array) -> Array:
    return x * _normal_distribution(x)


def _normal_distribution(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _normalize(
    channels: int, scale: Float[Array, "rows 1"], bias: Float[Array, "rows 1"], x: Float[Array, "rows p"]
) -> Float[Array, "rows p"]:
    return _standardized(channels, x)[0] * scale + bias


def _standardized(channels: int, x: Array) -> tuple[Array, Array]:
    centred = x - jnp.sum(x, axis=0, keepdims=True) / channels
    if channels != x.shape[0]:
        centred *= (jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], 1), 0) < channels).astype(x.dtype)
    variance = jnp.sum(centred * centred, axis=0, keepdims=True) / channels
    deviation = jax.lax.rsqrt(variance + 1e-6)
    return centred * deviation, deviation


_IN_XLA = Arithmetic(_shifted, _parts, _crop, _product, _gelu, _normalize)


# The same with gradients that Mosaic can compile.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _rolled(window: Array, lanes: int) -> Array:
    return pltpu.roll(window, -lanes % window.shape[1], 1)


_rolled.defvjp(
    lambda window, lanes: (_rolled(window, lanes), None),
    lambda lanes, _, ct: (pltpu.roll(ct, lanes % ct.shape[1], 1),),
)

_kernel_parts = jax.custom_vjp(_parts, nondiff_argnums=(1,))
_kernel_parts.defvjp(lambda array, count: (_parts(array, count), None), lambda count, _, cts: (stacked(cts),))


def _crop_backward(chunk: int, saved: Array, ct: Array) -> tuple[Array]:
    halo = (saved.shape[1] - chunk) // 2
    if not halo:
        return (ct,)
    zeros = jnp.zeros((ct.shape[0], halo), ct.dtype)
    return (jnp.concatenate([zeros, ct, zeros], axis=1),)


_kernel_crop = jax.custom_vjp(_crop, nondiff_argnums=(1,))
_kernel_crop.defvjp(lambda window, chunk: (_crop(window, chunk), window), _crop_backward)


def _product_backward(precision: Any, saved: tuple[Array, Array], ct: Array) -> tuple[Array, Array]:
    matrix, x = saved
    return _dot(precision, ct, x, 1, 1), _dot(precision, matrix.T, ct, 1, 0)


_kernel_product = jax.custom_vjp(_product, nondiff_argnums=(0,))
_kernel_product.defvjp(lambda precision, matrix, x: (_product(precision, matrix, x), (matrix, x)), _product_backward)


def _gelu_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    probability = _normal_distribution(x)
    return x * probability, (x, probability)


def _gelu_backward(saved: tuple[Array, Array], ct: Array) -> tuple[Array]:
    x, probability = saved
    return (ct * (probability + x * jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))),)


_kernel_gelu = jax.custom_vjp(_gelu)
_kernel_gelu.defvjp(_gelu_forward, _gelu_backward)


def _normalize_forward(channels: int, scale: Array, bias: Array, x: Array) -> tuple[Array, Any]:
    standard, deviation = _standardized(channels, x)
    return standard * scale + bias, (scale, standard, deviation)


def _normalize_backward(channels: int, saved: Any, ct: Array) -> tuple[Array, Array, Array]:
    scale, standard, deviation = saved
    scaled = ct * scale
    along = jnp.sum(scaled * standard, axis=0, keepdims=True) / channels
    mean = jnp.sum(scaled, axis=0, keepdims=True) / channels
    by_x = deviation * (scaled - mean - standard * along)
    return jnp.sum(ct * standard, axis=1, keepdims=True), jnp.sum(ct, axis=1, keepdims=True), by_x


_kernel_normalize = jax.custom_vjp(_normalize, nondiff_argnums=(0,))
_kernel_normalize.defvjp(_normalize_forward, _normalize_backward)

_IN_KERNELS = Arithmetic(_rolled, _kernel_parts, _kernel_crop, _kernel_product, _kernel_gelu, _kernel_normalize)
