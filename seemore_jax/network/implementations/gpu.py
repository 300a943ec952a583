"""Implementation for NVIDIA GPUs: the four blocks of a residual group are one kernel each.

A fifth kernel computes what is between the first block and the experts: the router, and the summary of the context. XLA
computes the rest: the convolutions before and after the groups. The kernels (`simt`) take feature maps as (N, H, W, C).
On a CPU, they are compiled by the C++ compiler; that is slow and serves tests.
"""

import contextlib
import functools
import logging
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import padded
from seemore_jax.network.implementations.gpu_operations import (
    OPERATIONS,
    experts_operation,
    region_of,
    routing_operation,
)
from seemore_jax.network.implementations.gpu_weights import ArrangedWeights, GroupWeights, arranged, weights_of_group
from seemore_jax.network.implementations.simt import device, host
from seemore_jax.network.implementations.simt.variants import variants_of
from seemore_jax.network.routing import Routing
from seemore_jax.network.seemore import ResidualGroup, SeemoReNetwork
from seemore_jax.network.valid_region import ValidRegion, resize_positions
from seemore_jax.system.devices import is_compiling_ahead, target_backend

_LOG = logging.getLogger(__name__)
_OLDEST = 8.0  # compute capability of sm_80


def supports(config: SeemoReConfig) -> bool:
    """Returns whether the kernels can compute a network on this machine. If they cannot, there is a warning in the log.

    Args:
      config: configuration of the network.
    """
    if reason := unsupported_reason(config):
        _warn(reason)
        return False
    return True


def unsupported_reason(config: SeemoReConfig) -> str:
    """Returns why the kernels cannot compute a network on this machine; an empty string if they can.

    Args:
      config: configuration of the network.
    """
    for variant in variants_of(config):
        if variant.tile is None:
            return f"{variant.name} needs more shared memory than a GPU has"
    if target_backend() != "gpu":
        return host.unavailable_reason()
    if not is_compiling_ahead() and (reason := _old_device()):
        return reason
    return device.unavailable_reason()


def _old_device() -> str:
    """Returns why the device that is there cannot run the kernels; an empty string if it can."""
    found = jax.local_devices()[0]
    capability = str(getattr(found, "compute_capability", ""))  # such as "9.0"
    if re.fullmatch(r"\d+\.\d+", capability) and float(capability) >= _OLDEST:
        return ""
    has = f"{found.device_kind} has {capability or 'none'}"
    return f"they need an NVIDIA GPU of compute capability {_OLDEST}, and {has}"


@functools.cache
def _warn(reason: str) -> None:
    _LOG.warning("the gpu kernels are not used: %s", reason)


def apply_network(
    model: SeemoReNetwork, lr: Float[Array, "n h w 3"], valid_region: ValidRegion | None = None
) -> tuple[Float[Array, "n sh sw 3"], Routing]:
    """Computes `SeemoReNetwork.__call__`.

    Args:
      model: network.
      lr: low-resolution images with values in [0, 1].
      valid_region: valid region of `lr`; None if the images fill the array.

    Returns:
      As `plain.apply_network`.
    """
    # Where the images fill the array, the positions are constants of the program.
    with contextlib.nullcontext() if valid_region is not None else jax.ensure_compile_time_eval():
        layout = _layout(lr.shape[1:3], valid_region, model.config)
    weights = [weights_of_group(group) for group in model.groups]
    of_all = arranged(weights, model.config.compute_dtype)
    shallow = x = model.extract(lr) if valid_region is None else padded.extract(model, lr, valid_region)
    # All groups call one compiled function, so that JAX traces it only once.
    traced_once = jax.jit(functools.partial(_residual_group, config=model.config))
    apply_group = jax.checkpoint(traced_once) if model.config.rematerialize else traced_once
    found = []
    for index, group in enumerate(model.groups):
        x, probabilities = apply_group(group, weights[index], of_all, jnp.int32(index), x, layout)
        found.append(probabilities)
    of_groups = jnp.stack(found, axis=1)
    routing = Routing(jax.lax.top_k(of_groups, model.config.topk)[1], of_groups)
    if valid_region is None:
        return model.reconstruct(x, shallow), routing
    return padded.reconstruct(model, x, shallow, valid_region), routing


class _Layout(NamedTuple):
    """Arrays that all groups share.

    Attributes:
      region: first array of the operations.
      positions: arrays `rows`, `row_weights`, `columns` and `column_weights` of the experts.
    """

    region: Array
    positions: tuple[Array, ...]


def _layout(shape: tuple[int, ...], valid_region: ValidRegion | None, config: SeemoReConfig) -> _Layout:
    height, width = shape
    valid = valid_region or ValidRegion.of(height, width)
    small = valid.reduced(config.recursive)
    rows = resize_positions(height, small.height, valid.image_height, valid.first_row)
    columns = resize_positions(width, small.width, valid.width, jnp.int32(0))
    return _Layout(region_of(valid, (small.height, small.width)), (*rows, *columns))


def _residual_group(
    group: ResidualGroup,
    weights: GroupWeights,
    of_all: ArrangedWeights,
    index: Array,
    x: Array,
    layout: _Layout,
    *,
    config: SeemoReConfig,
) -> tuple[Array, Array]:
    """Computes a residual group, and the probabilities of its experts."""
    first = layout.region, index, x
    features, context, sums, reduced = OPERATIONS["embedding"](*first, *weights.embedding, *of_all.embedding)
    reduced = reduced if config.recursive else context
    for _ in range(2, config.recursive):
        reduced = group.rank_modulating.mixture_block.reduce(reduced)
    route = routing_operation(config.recursive > 1)
    probabilities, summary = route(layout.region, sums, reduced, *weights.routing)
    maps = features, context, summary, *layout.positions, probabilities
    (x,) = experts_operation(config.topk)(*first, *maps, *weights.experts, *of_all.experts)

    def feed_forward(x: Array, arrays: tuple[Array, ...], layer: Array) -> Array:
        return OPERATIONS["feed_forward"](layout.region, layer, x, *arrays, *of_all.feed_forward)[0]

    x = feed_forward(x, weights.feed_forward_1, 2 * index)
    (x,) = OPERATIONS["enhancement"](layout.region, index, x, *weights.enhancement, *of_all.enhancement)
    return feed_forward(x, weights.feed_forward_2, 2 * index + 1), probabilities
