"""Implementation for NVIDIA GPUs: the four blocks of a residual group are one kernel each, XLA computes the rest.

The rest is small but for the convolutions before and after the groups: the router, and the summary of the context. The
kernels (`simt`) take feature maps as (N, H, W, C). On a CPU, they are compiled by the C++ compiler; that is slow and
serves tests.
"""

import functools
import logging
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import padded
from seemore_jax.network.implementations.cpu_weights import (
    affine_of,
    expert_weights,
    features_weights,
    striped_weights,
    taps_of,
    weights_of,
)
from seemore_jax.network.implementations.gpu_operations import OPERATIONS, region_of
from seemore_jax.network.implementations.simt import device, host
from seemore_jax.network.implementations.simt.variants import Variant, variants_of
from seemore_jax.network.routing import Routing, stack_routings
from seemore_jax.network.seemore import GatedFeedForward, ResidualGroup, SeemoReNetwork
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
    for variant in variants(config):
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


def variants(config: SeemoReConfig) -> list[Variant]:
    """Returns the kernels of a network.

    Args:
      config: configuration of the network.
    """
    rank = config.topk * max(config.ranks)
    return list(variants_of(config.embedding_dim, config.compute_dtype, rank, config.global_kernel_size))


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
    layout = _layout(lr.shape[1:3], valid_region, model.config)
    shallow = x = model.extract(lr) if valid_region is None else padded.extract(model, lr, valid_region)
    # All groups call one compiled function, so that JAX traces it only once.
    traced_once = jax.jit(functools.partial(_residual_group, config=model.config))
    apply_group = jax.checkpoint(traced_once) if model.config.rematerialize else traced_once
    routings = []
    for group in model.groups:
        x, routing = apply_group(group, x, valid_region, layout)
        routings.append(routing)
    if valid_region is None:
        return model.reconstruct(x, shallow), stack_routings(routings)
    return padded.reconstruct(model, x, shallow, valid_region), stack_routings(routings)


class _Layout(NamedTuple):
    """Arrays that all groups share.

    Attributes:
      region: first array of the operations.
      pixels: number of pixels over which means are taken.
      positions: arrays `rows`, `row_weights`, `columns` and `column_weights` of the experts.
    """

    region: Array
    pixels: Array
    positions: tuple[Array, ...]


def _layout(shape: tuple[int, ...], valid_region: ValidRegion | None, config: SeemoReConfig) -> _Layout:
    height, width = shape
    valid = valid_region or ValidRegion.of(height, width)
    small = valid.reduced(config.recursive)
    rows = resize_positions(height, small.height, valid.image_height, valid.first_row)
    columns = resize_positions(width, small.width, valid.width, jnp.int32(0))
    region = region_of(valid, (small.height, small.width))
    return _Layout(region, valid.height * valid.width, (*rows, *columns))


def _residual_group(
    group: ResidualGroup, x: Array, valid_region: ValidRegion | None, layout: _Layout, *, config: SeemoReConfig
) -> tuple[Array, Routing]:
    local, spatial = group.rank_modulating, group.spatial_modulating
    block, channels = local.mixture_block, x.shape[-1]
    kernel, bias = weights_of(block.embed)
    expand, expand_bias, *striped = features_weights(block)
    features, context, total, reduced = OPERATIONS["embedding"](
        layout.region,
        x,
        *affine_of(local.norm_1),
        kernel.reshape(9, channels, channels),
        bias,
        _halves(expand),
        expand_bias,
        *striped,
        *taps_of(block.aggregate),
    )
    routing = block.mixture.route(block.mixture.router.choose(total / layout.pixels))
    summary = padded.summarize(group, reduced if config.recursive else context, valid_region)
    arrays = layout.region, x, features, context, summary, *layout.positions, *expert_weights(block, routing)
    (x,) = OPERATIONS["experts"](*arrays)
    x = _feed_forward(local.norm_2, local.feed_forward, x, layout)
    enhancement = spatial.enhancement
    expand, expand_bias = weights_of(enhancement.to_query_value)
    arrays = *striped_weights(enhancement.striped), *weights_of(enhancement.project)
    (x,) = OPERATIONS["enhancement"](
        layout.region, x, *affine_of(spatial.norm_1), _halves(expand), expand_bias, *arrays
    )
    return _feed_forward(spatial.norm_2, spatial.feed_forward, x, layout), routing


def _feed_forward(norm: nnx.LayerNorm, layer: GatedFeedForward, x: Array, layout: _Layout) -> Array:
    """Computes x + GatedFFN(LN(x))."""
    expand, expand_bias = weights_of(layer.expand)
    arrays = *affine_of(norm), _halves(expand), expand_bias, *taps_of(layer.gate), *weights_of(layer.project)
    (x,) = OPERATIONS["feed_forward"](layout.region, x, *arrays)
    return x


def _halves(expand: Float[Array, "c d"]) -> Float[Array, "2 c c"]:
    """Splits a matrix from C to 2C channels into two."""
    return jnp.stack(jnp.split(expand, 2, axis=1))
