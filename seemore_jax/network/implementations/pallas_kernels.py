"""Pallas kernels that compute a block of stages, forward and backward, with a whole image in VMEM.

The forward kernel applies the stages in order. The backward kernel recomputes the maps from the block's inputs and then
goes through the stages in reverse order; JAX differentiates each stage inside the kernel. Each kernel asks for the VMEM
that it needs. If the maps of an image do not fit, XLA computes the same stages. The gradient, for which a kernel needs
more than for the values, may be left to XLA alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from seemore_jax.network.implementations.fused_operation import Arrays, FusedOperation
from seemore_jax.network.implementations.pallas_arithmetic import IN_KERNELS, IN_XLA
from seemore_jax.network.implementations.pallas_memory import kernel_bytes, vmem_bytes
from seemore_jax.network.implementations.pallas_stages import (
    LANES,
    Block,
    BlockWeights,
    MapShape,
    Stage,
    StageEnvironment,
    column_masks,
)


def apply(
    block: Block,
    shape: MapShape,
    weights: BlockWeights,
    per_image: BlockWeights,
    maps: Sequence[Float[Array, "n rows lanes"]],
) -> tuple[Float[Array, "n outputs lanes"], ...]:
    """Applies a block, by a Pallas kernel if the image fits into VMEM, otherwise by XLA.

    Args:
      block: block to apply.
      shape: shape of the feature maps; their arrays are padded to (N, `shape.rows`, `shape.lanes`).
      weights: weights that all images share, float32: matrices, and columns (rows, 1).
      per_image: weights that differ between images, (N, …), float32.
      maps: inputs of the block, in the compute dtype.

    Returns:
      The outputs of the block, in the compute dtype.
    """
    weights, per_image = dict(weights), dict(per_image)
    kernels = _BlockKernels(block, shape, tuple(sorted(weights)), tuple(sorted(per_image)))
    arrays = (*_leaves(weights), *_leaves(per_image), *maps)
    if not kernels.forward_fits(arrays):
        return _by_xla(block, shape, weights, per_image, maps)
    return fused(kernels, kernels.backward_fits(arrays))(*arrays)


def _leaves(weights: BlockWeights) -> list[Array]:
    """Returns the weights in the order of their names."""
    return [weights[name] for name in sorted(weights)]


@functools.cache
def fused(kernels: "_BlockKernels", with_backward: bool) -> FusedOperation:
    """Returns a block as a fused operation on its shared weights, its own weights, and its maps, in this order.

    Args:
      kernels: the functions of the operation.
      with_backward: whether a kernel computes the gradient; otherwise it is that of the stages in XLA.
    """
    batched = tuple(range(len(kernels.shared), kernels.weight_count + len(kernels.block.inputs)))
    backward = kernels.backward if with_backward else None
    return FusedOperation(kernels.block.name, kernels.by_xla, kernels.forward, backward, batched)


@dataclasses.dataclass(frozen=True)
class _BlockKernels:
    """Functions of a block's `FusedOperation`.

    Attributes:
      block: the block.
      shape: shape of the feature maps.
      shared: names of the weights that all images share.
      own: names of the weights that differ between images.
    """

    block: Block
    shape: MapShape
    shared: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def weight_count(self) -> int:
        return len(self.shared) + len(self.own)

    def by_xla(self, *arrays: Array) -> Arrays:
        weights = dict(zip(self.shared, arrays, strict=False))
        per_image = dict(zip(self.own, arrays[len(self.shared) :], strict=False))
        return _by_xla(self.block, self.shape, weights, per_image, arrays[self.weight_count :])

    def forward_fits(self, arrays: Arrays) -> bool:
        """Returns whether the forward kernel fits into the VMEM of the device."""
        return self._vmem("forward", (*arrays, *self._results(arrays))) <= vmem_bytes()

    def backward_fits(self, arrays: Arrays) -> bool:
        """Returns whether the backward kernel, which keeps more maps, fits into the VMEM of the device."""
        given = (*arrays, *self._results(arrays))
        return self._vmem("backward", (*given, *self._gradients(arrays))) <= vmem_bytes()

    def forward(self, *arrays: Array) -> Arrays:
        return self._call("forward", self._forward_kernel, arrays, self._results(arrays))

    def backward(self, arrays: Arrays, cotangents: Arrays) -> Arrays:
        dtype = arrays[self.weight_count].dtype
        given = (*arrays, *(cotangent.astype(dtype) for cotangent in cotangents))
        return self._call("backward", self._backward_kernel, given, self._gradients(arrays))

    def _results(self, arrays: Arrays) -> list[jax.ShapeDtypeStruct]:
        like = arrays[self.weight_count]
        images, rows, lanes = like.shape
        shape = (images, self.block.output_rows or rows, lanes)
        return [jax.ShapeDtypeStruct(shape, like.dtype)] * len(self.block.outputs)

    def _gradients(self, arrays: Arrays) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in arrays]  # all weights are float32

    def _buffers(self, way: str) -> int:
        """Returns the number of maps that the kernel "forward" or "backward" keeps in VMEM."""
        kept = len(self.block.buffers)
        return kept if way == "forward" else 2 * kept + len(self.block.inputs)

    def _vmem(self, way: str, arrays: Sequence[Any]) -> int:
        """Returns the VMEM in bytes that the kernel "forward" or "backward" needs for its arguments and results."""
        masks = jax.eval_shape(self._masks)
        return kernel_bytes(
            self.block, self.shape, (masks, *arrays), buffers=self._buffers(way), backward=way == "backward"
        )

    def _masks(self) -> Array:
        return column_masks(self.shape, self.block.reach, self.block.halo)

    def _call(
        self, way: str, kernel: Callable[..., None], arrays: Sequence[Array], results: Sequence[jax.ShapeDtypeStruct]
    ) -> Arrays:
        """Runs a kernel for each image in turn: compiled on a TPU, interpreted on other platforms.

        JAX chooses when it lowers the program, so that a host with only a CPU can compile a program for a TPU.
        """
        block, shape = self.block, self.shape
        arguments = [self._masks(), *arrays]
        call = functools.partial(
            pl.pallas_call,
            kernel,
            grid=(arrays[self.weight_count].shape[0],),
            in_specs=[_spec(array.shape) for array in arguments],
            out_specs=[_spec(result.shape) for result in results],
            # The kernel ignores the axes of the mesh over which arrays vary.
            out_shape=[result.update(manual_axis_type=jax.sharding.ManualAxisType()) for result in results],
            scratch_shapes=[pltpu.VMEM((shape.rows, shape.lanes + 2 * block.halo), jnp.float32)] * self._buffers(way),
            name=f"{block.name}_{way}",
        )
        needed = self._vmem(way, (*arrays, *results))
        on_tpu = call(compiler_params=pltpu.CompilerParams(vmem_limit_bytes=needed))
        return tuple(jax.lax.platform_dependent(*arguments, tpu=on_tpu, default=call(interpret=True)))

    def _forward_kernel(self, *references: Any) -> None:
        block = self.block
        masks, weights, rest = self._unpack(references)
        blocks = dict(zip((*block.inputs, *block.outputs), rest, strict=False))
        buffers = dict(zip(block.buffers, rest[len(blocks) :], strict=True))
        run = _StageRunner(block, self.shape, masks, weights, _Maps(block, self.shape, blocks, buffers))
        run.clear_surroundings()
        for stage in block.stages:
            run.forward(stage)

    def _backward_kernel(self, *references: Any) -> None:
        block = self.block
        masks, weights, rest = self._unpack(references)
        given = (*block.inputs, *map(_ct, block.outputs))
        blocks = dict(zip(given, rest, strict=False))
        rest = rest[len(blocks) :]
        gradients = dict(zip((*self.shared, *self.own), rest, strict=False))
        rest = rest[len(gradients) :]
        blocks |= zip(map(_returned_ct, block.inputs), rest, strict=False)
        names = (*block.buffers, *map(_ct, block.buffers), *map(_ct, block.inputs))
        buffers = dict(zip(names, rest[len(block.inputs) :], strict=True))
        run = _StageRunner(block, self.shape, masks, weights, _Maps(block, self.shape, blocks, buffers))

        self._clear_gradients(gradients)
        run.clear_surroundings()
        for stage in block.stages[:-1]:  # no stage reads the maps of the last one
            run.forward(stage)
        known = set(block.outputs)
        for i in reversed(range(len(block.stages))):
            last_to_add = {name for name in block.inputs if all(name not in s.reads for s in block.stages[:i])}
            run.backward(block.stages[i], gradients, known, last_to_add)

    def _unpack(self, references: Sequence[Any]) -> tuple[Any, dict[str, Any], Sequence[Any]]:
        """Returns a kernel's references: the masks, the weights by name, and the others."""
        masks, *rest = references
        weights = dict(zip((*self.shared, *self.own), rest, strict=False))
        return masks, weights, rest[len(weights) :]

    def _clear_gradients(self, gradients: Mapping[str, Any]) -> None:
        """Sets the gradients to zero: those of shared weights before the first image, the others before each image."""

        @pl.when(pl.program_id(0) == 0)
        def _() -> None:
            for name in self.shared:
                gradients[name][...] = jnp.zeros_like(gradients[name])

        for name in self.own:
            gradients[name][...] = jnp.zeros_like(gradients[name])


def _spec(shape: tuple[int, ...]) -> pl.BlockSpec:
    """Returns which part of an array the kernel reads for one image: arrays (N, …) have one part for each image."""
    if len(shape) == 3:
        return pl.BlockSpec((1, *shape[1:]), lambda i: (i, 0, 0))
    return pl.BlockSpec(shape, lambda i: (0,) * len(shape))


def _ct(name: str) -> str:
    return f"cotangent of {name}"


def _returned_ct(name: str) -> str:
    return f"returned cotangent of {name}"


class _Maps:
    """Feature maps of one image inside a kernel: blocks of arrays in HBM, and buffers in VMEM; chunks are float32.

    A buffer has `halo` zeros on each side, the zero padding of convolutions.
    """

    def __init__(self, block: Block, shape: MapShape, blocks: Mapping[str, Any], buffers: Mapping[str, Any]) -> None:
        self._block, self._shape, self._blocks, self._buffers = block, shape, blocks, buffers

    def clear(self, names: Sequence[str]) -> None:
        """Sets buffers and their halos to zero."""
        for name in names:
            self._buffers[name][...] = jnp.zeros_like(self._buffers[name])

    def read(self, name: str, start: Any, halo: int = 0) -> Array:
        """Returns the chunk that begins at pixel `start`, and `halo` more pixels on each side."""
        length = self._shape.chunk + 2 * halo
        if name in self._blocks:
            return self._blocks[name][0, :, pl.ds(start, length)].astype(jnp.float32)
        return self._buffers[name][:, pl.ds(start + self._block.halo - halo, length)]

    def write(self, name: str, start: Any, chunk: Array) -> None:
        """Writes the chunk that begins at pixel `start`; drops outputs of the block in a backward kernel."""
        if name in self._blocks:
            block = self._blocks[name]
            block[0, :, pl.ds(start, self._shape.chunk)] = chunk.astype(block.dtype)
        elif name in self._buffers:
            self._buffers[name][:, pl.ds(start + self._block.halo, self._shape.chunk)] = chunk

    def add(self, name: str, start: Any, window: Array, halo: int = 0) -> None:
        """Adds a window to the chunk that begins at pixel `start`, and to `halo` more pixels on each side."""
        self._buffers[name][:, pl.ds(start + self._block.halo - halo, window.shape[1])] += window


@dataclasses.dataclass(frozen=True)
class _StageRunner:
    """Loop of a stage over all chunks of an image inside a kernel.

    Attributes:
      block: block of the stages.
      shape: shape of the feature maps.
      masks: reference to the array of `column_masks`.
      weights: references to the weights.
      maps: feature maps.
    """

    block: Block
    shape: MapShape
    masks: Any
    weights: Mapping[str, Any]
    maps: _Maps

    def clear_surroundings(self) -> None:
        """Sets the halos to zero before the first image. Stages do not write to them."""
        around = {name for stage in self.block.stages for name in stage.around}

        @pl.when(pl.program_id(0) == 0)
        def _() -> None:
            self.maps.clear(sorted(around))

    def forward(self, stage: Stage) -> None:
        """Runs the forward pass of a stage."""

        def body(start: Any) -> None:
            env = self._environment(stage, start)
            chunks = stage.function(env, self._load(stage), *self._windows(stage, start))
            for name, chunk in zip(stage.writes, chunks, strict=True):
                self.maps.write(name, start, _mask_padding(env, chunk))

        self._for_each_chunk(body)

    def backward(self, stage: Stage, gradients: Mapping[str, Any], known: set[str], last_to_add: set[str]) -> None:
        """Runs the backward pass of a stage.

        Args:
          stage: stage to run.
          gradients: references to the gradients of the weights, to which the stage adds.
          known: names of the maps that already have a cotangent. The maps that the stage reads are added to this set.
          last_to_add: names of the block's inputs whose cotangents are complete after this stage; it returns them.
        """
        self.maps.clear([_ct(name) for name in stage.around if name not in known])
        known |= set(stage.around)

        def body(start: Any) -> None:
            env = self._environment(stage, start)

            def function(weights: BlockWeights, *windows: Array) -> tuple[Array, ...]:
                return tuple(_mask_padding(env, chunk) for chunk in stage.function(env, weights, *windows))

            _, pull_back = jax.vjp(function, self._load(stage), *self._windows(stage, start))
            by_weights, *by_windows = pull_back(tuple(self.maps.read(_ct(name), start) for name in stage.writes))
            for name in by_weights:
                gradient = gradients[name]
                gradient[...] += by_weights[name].reshape(gradient.shape)
            for name, window in zip(stage.reads, by_windows, strict=True):
                if name in last_to_add:
                    total = window + self.maps.read(_ct(name), start) if name in known else window
                    self.maps.write(_returned_ct(name), start, total)
                elif name in known:
                    self.maps.add(_ct(name), start, window, stage.halo_of(name))
                else:
                    self.maps.write(_ct(name), start, window)

        self._for_each_chunk(body)
        known |= set(stage.reads)

    def _for_each_chunk(self, body: Callable[[Any], None]) -> None:
        @pl.loop(0, self.shape.lanes // self.shape.chunk)
        def _(i: Any) -> None:
            body(pl.multiple_of(i * self.shape.chunk, LANES))

    def _environment(self, stage: Stage, start: Any) -> StageEnvironment:
        length = self.shape.chunk + 2 * stage.halo
        masks = self.masks[:, pl.ds(start + self.block.halo - stage.halo, length)]
        return StageEnvironment(self.shape, masks, self.block.reach, self.shape.chunk, IN_KERNELS)

    def _load(self, stage: Stage) -> dict[str, Array]:
        used = {name: self.weights[name] for name in stage.weights}
        return {name: ref[0] if len(ref.shape) == 3 else ref[...] for name, ref in used.items()}

    def _windows(self, stage: Stage, start: Any) -> list[Array]:
        return [self.maps.read(name, start, stage.halo_of(name)) for name in stage.reads]


def _mask_padding(env: StageEnvironment, chunk: Array) -> Array:
    """Sets the pixels beyond the last pixel of the image to zero."""
    padded = env.shape.lanes != env.shape.pixels
    return chunk * env.crop(env.mask(0)) if padded else chunk


def _by_xla(
    block: Block, shape: MapShape, weights: BlockWeights, per_image: BlockWeights, maps: Sequence[Array]
) -> tuple[Array, ...]:
    """Applies the stages of a block to whole images, without Pallas."""
    dtype = maps[0].dtype

    def one_image(per_image: BlockWeights, *maps: Array) -> tuple[Array, ...]:
        known = {name: one.astype(jnp.float32) for name, one in zip(block.inputs, maps, strict=True)}
        for stage in block.stages:
            masks = column_masks(shape, block.reach, stage.halo)
            env = StageEnvironment(shape, masks, block.reach, shape.lanes, IN_XLA)
            windows = [jnp.pad(known[name], ((0, 0), (stage.halo_of(name),) * 2)) for name in stage.reads]
            chunks = stage.function(env, {**weights, **per_image}, *windows)
            for name, chunk in zip(stage.writes, chunks, strict=True):
                known[name] = _mask_padding(env, chunk).astype(dtype).astype(jnp.float32)
        return tuple(known[name].astype(dtype) for name in block.outputs)

    return jax.vmap(one_image)(dict(per_image), *maps)
