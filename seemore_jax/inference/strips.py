"""One large image in strips of rows: in little memory, and with the result that the whole image at once would have.

A residual group needs two things of the whole image, the mean that its router sees and the summary of the context.
Both are known only when the group's first steps have been done everywhere. So the image is swept once for each group:

    sweep 0     shallow features, and the first steps of group 0
    sweep i     strip by strip, group i−1 goes on after its routing, and the first steps of group i follow
    last sweep  the last group goes on, and the image is reconstructed

Between the sweeps two feature maps of the whole image are kept, outside the device: the group's input x, and its
embedded features, from which local features and context are made a second time: to keep them, too, would take longer.
A strip is computed with `halo` rows of its neighbours on each side: as far as a sweep's convolutions see. The network
is that of `seemore_jax.network`, in the steps of `NetworkSteps`.
"""

import functools
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Num, UInt

from seemore_jax.inference.callbacks import Callbacks
from seemore_jax.inference.pixels import from_float, to_float
from seemore_jax.network import Routing, SeemoRe, SeemoReConfig
from seemore_jax.network.implementations import NetworkSteps, chosen_steps
from seemore_jax.network.seemore import ResidualGroup, stack_routings
from seemore_jax.network.valid_region import ValidRegion
from seemore_jax.system.errors import InputError

# Of a strip's beginning, so that the context's first reduction meets the same rows as in the whole image.
_ALIGNMENT = 4
# Widths are rounded up to this many columns, heights of summaries to as many rows: few programs serve many sizes.
_STEP = 64
_MAPS = 2  # that are kept: x, and the embedded features
# Logits that are closer than this may be ordered otherwise by another order of summation.
TIE = 1e-5

# (N, H, W, C) of the network, or lines of an implementation's own layout.
RowsOfMap = Num[np.ndarray, "1 rows ..."]


def halo(config: SeemoReConfig) -> int:
    """Rows that one sweep sees beyond a strip.

    The local features, two feed-forwards, the embedding and the features of the next group take one each (at the end:
    the two convolutions of the reconstruction), the spatial enhancement half of its filter.
    """
    return _round_up(5 + config.global_kernel_size // 2, _ALIGNMENT)


def map_bytes(config: SeemoReConfig, height: int, width: int) -> int:
    """Of the feature maps that are kept while an image of that size is swept."""
    itemsize = jnp.dtype(config.compute_dtype).itemsize
    return _MAPS * (height + 2 * halo(config)) * _round_up(width, _STEP) * config.embedding_dim * itemsize


class Strip(NamedTuple):
    """Rows `begin` … `end` − 1 of the image, computed in a window of rows that starts at `first`."""

    begin: int
    end: int
    first: int
    region: ValidRegion


def upscale_in_strips(
    model: SeemoRe,
    image: UInt[np.ndarray, "h w d"],
    rows: int,
    *,
    dtype: np.dtype | type = np.uint8,
    in_file: bool = False,
    callbacks: Callbacks | None = None,
) -> tuple[Num[np.ndarray, "sh sw c"], Routing]:
    """Upscales a grey (d = 1) or RGB (d = 3) image strip by strip.

    Args:
      model: any SeemoRe.
      image: uint8 or uint16, over the type's whole range, of any size.
      rows: of a strip, in LR pixels; rounded up to a multiple of 4.
      dtype: of the result: uint8, uint16, or float32 for the network's own values, then always of three channels.
      in_file: keep the feature maps in a temporary file in layout of memory.
      callbacks: told what is done.

    Returns:
      The image, s times as large, and the routing of one image.

    Raises:
      InputError: no room for the temporary file.
    """
    height, width = image.shape[:2]
    missing = [max(0, model.config.min_side - side) for side in (height, width)]
    if any(missing):
        image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    sr, routing = _Sweeps(model, image, rows, np.dtype(dtype), in_file, callbacks or Callbacks()).run()
    scale = model.config.scale
    return sr[: height * scale, : width * scale], routing


class _Sweeps:
    """The state of an image that is swept."""

    def __init__(
        self,
        model: SeemoRe,
        image: UInt[np.ndarray, "h w d"],
        rows: int,
        dtype: np.dtype,
        in_file: bool,
        callbacks: Callbacks,
    ) -> None:
        config = self._config = model.config
        self._image, self._dtype, self._callbacks = image, dtype, callbacks
        self._height, self._width = image.shape[:2]
        rows = min(_round_up(max(rows, 1), _ALIGNMENT), _round_up(self._height, _ALIGNMENT))
        self._strips = list(_strips(self._height, self._width, rows, halo(config)))
        self._shape = (rows + 2 * halo(config), _round_up(self._width, _STEP))
        self._graph, self._parameters = nnx.split(model)
        self._group_graph = nnx.split(model.groups[0])[0]
        self._groups = [nnx.split(group)[1] for group in model.groups]
        self._done = 0
        self._put_off: Callable[[], None] = lambda: None
        strip = self._strips[0]
        kept = jax.eval_shape(_first, self._graph, self._parameters, self._window_of_image(strip), strip.region)[:_MAPS]
        self._maps = tuple(_FeatureMap(self._height, window, halo(config), in_file) for window in kept)

    def run(self) -> tuple[np.ndarray, Routing]:
        """All sweeps."""
        self._begin_group()
        for strip in self._strips:
            window = self._window_of_image(strip)
            results = _first(self._graph, self._parameters, window, strip.region)
            self._later(self._keep, strip, results)
        self._end_sweep()
        routing, summary = self._route(0)
        routings = [routing]
        for index in range(1, len(self._groups)):
            self._begin_group()
            for strip, maps in self._sweep():
                how = self._group_graph, self._config, self._shape
                parameters = self._groups[index - 1], self._groups[index]
                results = _middle(*how, *parameters, maps, summary, routing, strip.region)
                self._later(self._keep, strip, results)
            self._end_sweep()
            routing, summary = self._route(index)
            routings.append(routing)
        return self._finish(routing, summary), jax.tree.map(np.asarray, stack_routings(routings))

    def _begin_group(self) -> None:
        config = self._config
        reduction = _ALIGNMENT if config.recursive else 1
        self._total = np.zeros((1, config.embedding_dim))
        rows, columns = _round_up(self._height // reduction, _STEP), self._shape[1] // reduction
        self._reduced = np.zeros((1, rows, columns, config.embedding_dim), config.compute_dtype)

    def _sweep(self) -> Iterator[tuple[Strip, tuple[RowsOfMap, ...]]]:
        """The strips, each with its windows of the maps; alternately downwards and upwards, as the maps need it."""
        for strip in self._strips if self._maps[0].downwards else reversed(self._strips):
            yield strip, tuple(feature_map.window(strip.first) for feature_map in self._maps)

    def _later(self, keep: Callable[..., None], *arguments: Any) -> None:
        """Does what was put off before, while the device computes what these arguments will be; then puts them off."""
        self._do_the_last()
        self._put_off = functools.partial(keep, *arguments)

    def _do_the_last(self) -> None:
        keep, self._put_off = self._put_off, lambda: None
        keep()

    def _end_sweep(self) -> None:
        self._do_the_last()
        for feature_map in self._maps:
            feature_map.turn()

    def _keep(self, strip: Strip, results: tuple[Array, ...]) -> None:
        """Puts the strip's own rows of what `_first` or `_middle` returned where the next sweep finds them."""
        *maps, total, reduced = (np.asarray(array) for array in results)
        own = slice(strip.begin - strip.first, strip.end - strip.first)
        for feature_map, window in zip(self._maps, maps, strict=True):
            feature_map.write(strip.begin, window[0, own])
        self._total += total
        reduction = _ALIGNMENT if self._config.recursive else 1
        begin, end = strip.begin // reduction, strip.end // reduction
        offset = strip.first // reduction
        self._reduced[0, begin:end] = reduced[0, begin - offset : end - offset]
        self._tell()

    def _route(self, index: int) -> tuple[Routing, Array]:
        """What the whole image decides."""
        mean = jnp.asarray(self._total / (self._height * self._width), jnp.float32)
        region = ValidRegion.of(self._height, self._width)
        how = self._group_graph, self._config, self._shape
        routing, summary = _route(*how, self._groups[index], mean, self._reduced, region)
        self._report_tie(index, np.asarray(routing.probabilities[0]))
        return routing, summary

    def _report_tie(self, index: int, probabilities: Float[np.ndarray, " experts"]) -> None:
        topk = self._config.topk
        if topk == len(probabilities):
            return
        chosen, other = np.sort(probabilities.astype(np.float64))[::-1][topk - 1 : topk + 1]
        if other > chosen * np.exp(-TIE):  # their logits differ by the logarithm of their ratio
            self._callbacks.note(
                f"layer {index + 1}: two experts are equally probable to within {TIE:g}, so that another way to "
                "compute, such as the whole image at once, may choose the other"
            )

    def _finish(self, routing: Routing, summary: Array) -> np.ndarray:
        scale = self._config.scale
        channels = 3 if self._dtype == np.float32 else self._image.shape[2]
        sr = np.empty((self._height * scale, self._width * scale, channels), self._dtype)
        for strip, maps in self._sweep():
            window = self._window_of_image(strip), maps, summary, routing, strip.region
            self._later(self._put, strip, sr, _last(self._graph, self._dtype.name, self._parameters, *window))
        self._end_sweep()
        return sr

    def _put(self, strip: Strip, sr: np.ndarray, result: Array) -> None:
        scale = self._config.scale
        own = slice((strip.begin - strip.first) * scale, (strip.end - strip.first) * scale)
        sr[strip.begin * scale : strip.end * scale] = np.asarray(result)[0, own, : self._width * scale]
        self._tell()

    def _window_of_image(self, strip: Strip) -> UInt[np.ndarray, "1 rows columns d"]:
        part = self._image[strip.first : strip.first + self._shape[0]]
        missing = [whole - side for whole, side in zip(self._shape, part.shape[:2], strict=True)]
        return np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)))[None]

    def _tell(self) -> None:
        self._done += 1
        self._callbacks.progress(self._done / (len(self._strips) * (len(self._groups) + 1)))


class _FeatureMap:
    """A feature map of the whole image, whose old rows are read while new ones replace them.

    The new rows are put `margin` rows before the old ones, so that a strip's neighbours are still there when it is
    read; on the way back, upwards, they are put behind them.
    """

    def __init__(self, height: int, window: jax.ShapeDtypeStruct, margin: int, in_file: bool) -> None:
        self._window_rows = window.shape[1]
        dtype = np.dtype(window.dtype)
        # A window at the end reaches beyond the image; what is never touched takes no memory.
        shape = (height + self._window_rows + 2 * margin, *window.shape[2:])
        size = int(np.prod(shape)) * dtype.itemsize
        memory = _temporary_file(size) if in_file else _memory(size)  # given back with the last array of it
        self._rows = np.frombuffer(memory, dtype).reshape(shape)
        self._offset, self._next = 0, margin

    @property
    def downwards(self) -> bool:
        """The order in which strips are to be replaced."""
        return self._next < self._offset

    def window(self, first: int) -> RowsOfMap:
        """Old rows, without copying; where the memory is aligned, JAX on a CPU does not copy them either."""
        begin = self._offset + first
        return self._rows[None, begin : begin + self._window_rows]

    def write(self, begin: int, rows: Num[np.ndarray, "rows ..."]) -> None:
        """New rows, from row `begin` of the image on."""
        begin += self._next
        self._rows[begin : begin + len(rows)] = rows

    def turn(self) -> None:
        """Makes the new rows the old ones."""
        self._offset, self._next = self._next, self._offset


def _memory(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has no large pages
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # each page is one interruption by the system
    return memory


def _temporary_file(size: int) -> mmap.mmap:
    """Memory in a file that has no name any more, so that it is gone with the process."""
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up later would kill the process
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: no room for a feature map of {size / 1e9:.1f} GB ({error.strerror}); "
            "set TMPDIR to a folder that has it"
        ) from error


def _strips(height: int, width: int, rows: int, halo: int) -> Iterator[Strip]:
    for begin in range(0, height, rows):
        end, first = min(begin + rows, height), max(0, begin - halo)
        bottom = min(end + halo, height)
        yield Strip(
            begin, end, first, ValidRegion.part(bottom - first, width, first, height, begin - first, end - first)
        )


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


@functools.partial(jax.jit, static_argnums=0)
def _first(
    graph: nnx.GraphDef[SeemoRe], parameters: nnx.State, image: UInt[Array, "1 h w d"], region: ValidRegion
) -> tuple[Array, ...]:
    model = nnx.merge(graph, parameters)
    steps = chosen_steps(model.config)
    layout = steps.image_layout(image.shape[1:3], model.config, region)
    return _begun(steps, model.groups[0], steps.extract(model, to_float(image), layout), layout)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _middle(
    graph: nnx.GraphDef[ResidualGroup],
    config: SeemoReConfig,
    shape: tuple[int, int],
    finished: nnx.State,
    begun: nnx.State,
    maps: tuple[Array, Array],
    summary: Array,
    routing: Routing,
    region: ValidRegion,
) -> tuple[Array, ...]:
    steps = chosen_steps(config)
    layout = steps.image_layout(shape, config, region)
    x = steps.modulate(nnx.merge(graph, finished), *maps, summary, routing, layout)
    return _begun(steps, nnx.merge(graph, begun), x, layout)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _last(
    graph: nnx.GraphDef[SeemoRe],
    dtype: str,
    parameters: nnx.State,
    image: UInt[Array, "1 h w d"],
    maps: tuple[Array, Array],
    summary: Array,
    routing: Routing,
    region: ValidRegion,
) -> Num[Array, "1 sh sw e"]:
    model = nnx.merge(graph, parameters)
    steps = chosen_steps(model.config)
    layout = steps.image_layout(image.shape[1:3], model.config, region)
    x = steps.modulate(model.groups[-1], *maps, summary, routing, layout)
    sr = steps.reconstruct(model, x, steps.extract(model, to_float(image), layout), layout)
    return from_float(sr, np.dtype(dtype), image.shape[3])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _route(
    graph: nnx.GraphDef[ResidualGroup],
    config: SeemoReConfig,
    shape: tuple[int, int],
    parameters: nnx.State,
    mean: Float[Array, "1 c"],
    reduced: Float[Array, "1 h w c"],
    image: ValidRegion,
) -> tuple[Routing, Array]:
    """The routing, and the context's summary, for strips of that shape."""
    group, steps = nnx.merge(graph, parameters), chosen_steps(config)
    mixture = group.rank_modulating.mixture_block.mixture
    summary = steps.summarize(group, reduced, steps.image_layout(shape, config, image))
    return mixture.route(mixture.router.choose(mean)), summary


def _begun(steps: NetworkSteps, group: ResidualGroup, x: Array, layout: object) -> tuple[Array, ...]:
    """What is kept of the first steps of a group: the maps, the features' sum, and the reduced context."""
    embedded = steps.embed(group, x, layout)
    return x, embedded, *steps.global_statistics(group, embedded, layout)
