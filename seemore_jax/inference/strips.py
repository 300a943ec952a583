"""Upscales one large image strip by strip, in little memory. The result equals that of the whole image.

A residual group needs two statistics of the whole image: the mean of its features, from which its router chooses the
experts, and the summary of its context. Both are known only after the first steps of the group were computed for all
strips. A sweep computes all strips of the image once. There is one sweep for each group, and a last one:

    sweep 0     computes shallow features, and the first steps of group 0
    sweep i     computes the rest of group i−1 after its routing, and the first steps of group i
    last sweep  computes the rest of the last group, and reconstructs the image

Between two sweeps, the host keeps two feature maps of the whole image, in memory or in temporary files: the group's
input x, and its embedded features. Local features and context are computed again from the embedded features. This is
faster than to store them as well. A strip is computed with `halo` rows of its neighbours on each side, because the
convolutions of a sweep read them. The steps of the network are those of
`seemore_jax.network.implementations.NetworkSteps`.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Num, UInt

from seemore_jax.inference.callbacks import Callbacks
from seemore_jax.inference.feature_map import FeatureMap
from seemore_jax.inference.pixels import from_float, to_float
from seemore_jax.network import Routing, SeemoRe, SeemoReConfig
from seemore_jax.network.implementations import NetworkSteps, chosen_steps
from seemore_jax.network.routing import stack_routings
from seemore_jax.network.seemore import ResidualGroup
from seemore_jax.network.valid_region import ValidRegion

# Strips begin at a multiple of this, so that the first reduction of the context combines the same rows as in the whole
# image.
_ALIGNMENT = 4
# Widths of windows and heights of reduced contexts are rounded up to a multiple of this, so that few programs serve
# many sizes.
_STEP = 64
_MAPS = 2  # number of feature maps that are kept: x, and the embedded features
# If the logits of two experts differ by less than this, they may swap under a different summation order.
TIE = 1e-5

# A window of a feature map is (1, rows, W, C) in the plain implementation, (1, rows, …) in others.
Window = Num[np.ndarray, "1 rows ..."]


def halo(config: SeemoReConfig) -> int:
    """Returns how many rows on each side of a strip one sweep reads.

    Five operations read one row on each side: the local features, the two feed-forwards, the embedding of the next
    group and its local features. In the last sweep, the two convolutions of the reconstruction replace the last two.
    The spatial enhancement reads half the length of its filter.

    Args:
      config: configuration of the network.
    """
    return _round_up(5 + config.global_kernel_size // 2, _ALIGNMENT)


def map_bytes(config: SeemoReConfig, height: int, width: int) -> int:
    """Returns the size, in bytes, of the feature maps that are kept for an image.

    Args:
      config: configuration of the network.
      height, width: size of the image in LR pixels.
    """
    itemsize = jnp.dtype(config.compute_dtype).itemsize
    return _MAPS * (height + 2 * halo(config)) * _round_up(width, _STEP) * config.embedding_dim * itemsize


class Strip(NamedTuple):
    """Strip of the image, and the window of rows in which it is computed.

    Attributes:
      begin, end: the strip's own rows of the image, from `begin` to `end` − 1.
      first: index, in the image, of the window's first row.
      region: valid region of the window.
    """

    begin: int
    end: int
    first: int
    region: ValidRegion

    @property
    def own(self) -> slice:
        """The strip's own rows in the window."""
        return slice(self.begin - self.first, self.end - self.first)


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
      model: network.
      image: uint8 or uint16 image of any size, with values over the whole range of the type.
      rows: height of a strip in LR pixels; it is rounded up to a multiple of 4.
      dtype: type of the result: uint8, uint16, or float32 for the network's RGB output.
      in_file: whether to keep the feature maps in temporary files instead of in memory.
      callbacks: functions that are called with the progress after each strip, and with messages.

    Returns:
      An image of s times the size, and the routing of a batch of one image.

    Raises:
      InputError: there is no space for a temporary file.
    """
    height, width = image.shape[:2]
    missing = [max(0, model.config.min_side - side) for side in (height, width)]
    if any(missing):
        image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    sr, routing = _Sweeps(model, image, rows, np.dtype(dtype), in_file, callbacks or Callbacks()).run()
    scale = model.config.scale
    return sr[: height * scale, : width * scale], routing


class _Sweeps:
    """Sweeps over one image.

    The device computes a strip while the host stores the results of the previous strip.
    """

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
        self._strips_done = 0
        strip = self._strips[0]
        kept = jax.eval_shape(_first, self._graph, self._parameters, self._image_window(strip), strip.region)[:_MAPS]
        self._maps = tuple(FeatureMap(self._height, window, halo(config), in_file) for window in kept)

    def run(self) -> tuple[np.ndarray, Routing]:
        """Runs all sweeps. Returns the upscaled image, and its routing."""
        routing, summary = self._first_sweep()
        routings = [routing]
        for index in range(1, len(self._groups)):
            routing, summary = self._middle_sweep(index, routing, summary)
            routings.append(routing)
        return self._last_sweep(routing, summary), jax.tree.map(np.asarray, stack_routings(routings))

    def _first_sweep(self) -> tuple[Routing, Array]:
        statistics = _GroupStatistics(self._config, self._height, self._shape[1])

        def compute(strip: Strip) -> tuple[Array, ...]:
            return _first(self._graph, self._parameters, self._image_window(strip), strip.region)

        self._sweep(self._strips, compute, functools.partial(self._store, statistics))
        return self._route(0, statistics)

    def _middle_sweep(self, index: int, routing: Routing, summary: Array) -> tuple[Routing, Array]:
        """Ends group `index` − 1 and begins group `index`. Returns the routing and the summary of the latter."""
        statistics = _GroupStatistics(self._config, self._height, self._shape[1])
        groups = self._groups[index - 1], self._groups[index]

        def compute(strip: Strip) -> tuple[Array, ...]:
            program = self._group_graph, self._config, self._shape
            return _middle(*program, *groups, self._map_windows(strip), summary, routing, strip.region)

        self._sweep(self._ordered_strips(), compute, functools.partial(self._store, statistics))
        return self._route(index, statistics)

    def _last_sweep(self, routing: Routing, summary: Array) -> np.ndarray:
        """Computes the rest of the last group and the reconstruction. Returns the upscaled image."""
        scale = self._config.scale
        channels = 3 if self._dtype == np.float32 else self._image.shape[2]
        sr = np.empty((self._height * scale, self._width * scale, channels), self._dtype)

        def compute(strip: Strip) -> Array:
            program = self._graph, self._dtype.name, self._parameters
            windows = self._image_window(strip), self._map_windows(strip)
            return _last(*program, *windows, summary, routing, strip.region)

        def store(strip: Strip, result: Array) -> None:
            own = slice(strip.own.start * scale, strip.own.stop * scale)
            sr[strip.begin * scale : strip.end * scale] = np.asarray(result)[0, own, : self._width * scale]

        self._sweep(self._ordered_strips(), compute, store)
        return sr

    def _sweep(
        self, strips: Sequence[Strip], compute: Callable[[Strip], Any], store: Callable[[Strip, Any], None]
    ) -> None:
        """Computes all strips; stores each result while the device computes the next one."""
        before: tuple[Strip, Any] | None = None
        for strip in strips:
            results = compute(strip)
            if before:
                self._finish_strip(store, *before)
            before = strip, results
        if before:
            self._finish_strip(store, *before)
        for feature_map in self._maps:
            feature_map.end_sweep()

    def _finish_strip(self, store: Callable[[Strip, Any], None], strip: Strip, results: Any) -> None:
        store(strip, results)
        self._strips_done += 1
        self._callbacks.progress(self._strips_done / (len(self._strips) * (len(self._groups) + 1)))

    def _ordered_strips(self) -> Sequence[Strip]:
        """Returns the strips in the order in which the maps must be written: downwards and upwards in turn."""
        return self._strips if self._maps[0].downwards else self._strips[::-1]

    def _store(self, statistics: "_GroupStatistics", strip: Strip, results: tuple[Array, ...]) -> None:
        """Stores the strip's own rows of the results of `_first` or `_middle`."""
        *maps, total, reduced = (np.asarray(array) for array in results)
        for feature_map, window in zip(self._maps, maps, strict=True):
            feature_map.write(strip.begin, window[0, strip.own])
        statistics.add(strip, total, reduced)

    def _route(self, index: int, statistics: "_GroupStatistics") -> tuple[Routing, Array]:
        """Returns the routing and the summary of a group, and notes a near tie between two experts."""
        mean = jnp.asarray(statistics.total / (self._height * self._width), jnp.float32)
        region = ValidRegion.of(self._height, self._width)
        program = self._group_graph, self._config, self._shape
        routing, summary = _route(*program, self._groups[index], mean, statistics.reduced, region)
        if _is_tie(np.asarray(routing.probabilities[0]), self._config.topk):
            self._callbacks.note(
                f"layer {index + 1}: two experts are equally probable to within {TIE:g}, so that another way to "
                "compute, such as the whole image at once, may choose the other"
            )
        return routing, summary

    def _map_windows(self, strip: Strip) -> tuple[Window, ...]:
        return tuple(feature_map.window(strip.first) for feature_map in self._maps)

    def _image_window(self, strip: Strip) -> UInt[np.ndarray, "1 rows columns d"]:
        part = self._image[strip.first : strip.first + self._shape[0]]
        missing = [whole - side for whole, side in zip(self._shape, part.shape[:2], strict=True)]
        return np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)))[None]


class _GroupStatistics:
    """Statistics of the whole image for the routing of a group, added up strip by strip.

    Attributes:
      total: sum of the local features over all pixels, float64.
      reduced: context after its first reduction by 4; the context itself if there are no reductions.
    """

    def __init__(self, config: SeemoReConfig, height: int, width: int) -> None:
        self._reduction = _ALIGNMENT if config.recursive else 1
        self.total = np.zeros((1, config.embedding_dim))
        rows, columns = _round_up(height // self._reduction, _STEP), width // self._reduction
        self.reduced = np.zeros((1, rows, columns, config.embedding_dim), config.compute_dtype)

    def add(self, strip: Strip, total: np.ndarray, reduced: np.ndarray) -> None:
        """Adds the part of a strip: the sum of its features, and the reduced context of its window."""
        self.total += total
        begin, end, first = (row // self._reduction for row in (strip.begin, strip.end, strip.first))
        self.reduced[0, begin:end] = reduced[0, begin - first : end - first]


def _is_tie(probabilities: Float[np.ndarray, " experts"], topk: int) -> bool:
    """Returns whether the logits of the last chosen expert and of the next one differ by less than `TIE`."""
    if topk == len(probabilities):
        return False
    chosen, other = np.sort(probabilities.astype(np.float64))[::-1][topk - 1 : topk + 1]
    return bool(other > chosen * np.exp(-TIE))  # the difference of the logits is the logarithm of this ratio


def _strips(height: int, width: int, rows: int, halo: int) -> Iterator[Strip]:
    """Yields the strips of an image from the top to the bottom."""
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
    """Computes a strip in the first sweep."""
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
    maps: tuple[Array, ...],
    summary: Array,
    routing: Routing,
    region: ValidRegion,
) -> tuple[Array, ...]:
    """Computes a strip in a sweep between the first and the last one."""
    steps = chosen_steps(config)
    layout = steps.image_layout(shape, config, region)
    x, embedded = maps
    x = steps.modulate(nnx.merge(graph, finished), x, embedded, summary, routing, layout)
    return _begun(steps, nnx.merge(graph, begun), x, layout)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _last(
    graph: nnx.GraphDef[SeemoRe],
    dtype: str,
    parameters: nnx.State,
    image: UInt[Array, "1 h w d"],
    maps: tuple[Array, ...],
    summary: Array,
    routing: Routing,
    region: ValidRegion,
) -> Num[Array, "1 sh sw e"]:
    """Computes a strip in the last sweep."""
    model = nnx.merge(graph, parameters)
    steps = chosen_steps(model.config)
    layout = steps.image_layout(image.shape[1:3], model.config, region)
    x, embedded = maps
    x = steps.modulate(model.groups[-1], x, embedded, summary, routing, layout)
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
    """Returns the routing of a group, and the summary of its context for windows of that shape."""
    group, steps = nnx.merge(graph, parameters), chosen_steps(config)
    mixture = group.rank_modulating.mixture_block.mixture
    summary = steps.summarize(group, reduced, steps.image_layout(shape, config, image))
    return mixture.route(mixture.router.choose(mean)), summary


def _begun(steps: NetworkSteps, group: ResidualGroup, x: Array, layout: object) -> tuple[Array, ...]:
    """Computes the first steps of a group.

    Returns its input, its embedded features, the sum of its local features, and its reduced context.
    """
    embedded = steps.embed(group, x, layout)
    return x, embedded, *steps.global_statistics(group, embedded, layout)
