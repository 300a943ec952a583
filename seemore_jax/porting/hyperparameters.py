"""Finds the configuration of a network from the shapes of its weights, and the other fields from elsewhere."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from seemore_jax.network import SeemoReConfig
from seemore_jax.network.config import NOT_IN_SHAPES, RANK_OF_EXPERT, VARIANTS, stored_fields
from seemore_jax.porting.errors import WeightsError
from seemore_jax.system.errors import InputError

_RME = "body.0.local_block.block"
_SME = "body.0.global_block.block"


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """A configuration, and where its values come from.

    Attributes:
      config: the configuration.
      origin: for each stored field, where its value comes from, such as "shapes" or "argument".
    """

    config: SeemoReConfig
    origin: Mapping[str, str]


def read_hyperparameters(
    tensors: Mapping[str, np.ndarray], stored: Mapping[str, Any], overrides: Mapping[str, Any], source: str
) -> Hyperparameters:
    """Finds the configuration of a network.

    The shapes decide most fields. For a field in `NOT_IN_SHAPES`, the value is taken from `overrides`, then from
    `stored`, then from the published configuration with the same shapes.

    Args:
      tensors: the parameters under the names of the PyTorch release.
      stored: the configuration that `save` wrote into the file; empty for files of other programs.
      overrides: fields that the caller gives.
      source: the name of the file, for error messages.

    Returns:
      The configuration, and where each value comes from.

    Raises:
      WeightsError: the tensors do not belong to a SeemoRe, `stored` or `overrides` contradict the shapes, or a field
        is unknown (the message says which argument to give).
    """
    read = _from_shapes(tensors, source)
    values: dict[str, Any] = dict(read)
    origin = dict.fromkeys(read, "shapes")
    known_variant = _matching_variant(read)
    for field in NOT_IN_SHAPES:
        if field in overrides:
            values[field], origin[field] = overrides[field], "argument"
        elif field in stored:
            values[field], origin[field] = stored[field], "stored configuration"
        elif known_variant is not None:
            values[field] = getattr(known_variant, field)
            origin[field] = f"assumed: as in SeemoRe-{known_variant.variant_name}"
    missing = [field for field in NOT_IN_SHAPES if field not in values]
    if missing:
        raise WeightsError(
            f"{source}: not one of the nine published configurations, and the file does not have all fields; "
            f"give {', '.join(missing)} as argument{'s' if len(missing) > 1 else ''}"
        )
    for given, where in ((stored, "its stored configuration"), (overrides, "the argument")):
        for field in read.keys() & given.keys():
            if given[field] != read[field]:
                raise WeightsError(f"{source}: the shapes say {field}={read[field]}, {where} says {given[field]}")
    how_computed = {field: value for field, value in overrides.items() if field not in stored_fields()}
    try:
        return Hyperparameters(SeemoReConfig.from_dict({**values, **how_computed}), origin)
    except InputError as error:
        raise WeightsError(f"{source}: {error}") from error


def _from_shapes(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
    def shape(name: str, ndim: int = 4) -> tuple[int, ...]:
        found = tensors[name].shape if name in tensors else None
        if found is None or len(found) != ndim or 0 in found:
            raise WeightsError(f"{source}: not a SeemoRe checkpoint (no usable {name})")
        return found

    embedding_dim, in_chans = shape("conv_1.weight")[:2]
    out_channels = shape("upsampler.0.weight")[0]
    num_experts = shape(f"{_RME}.moe_layer.gate.body.2.weight", ndim=2)[0]
    ranks = [shape(f"{_RME}.moe_layer.experts.{e}.conv_1.weight")[0] for e in range(num_experts)]
    global_kernel_size = shape(f"{_SME}.attn.conv.0.weight")[-1]
    groups = {match[1] for name in tensors if (match := re.match(r"body\.(\d+)\.", name))}
    return {
        "scale": _scale(out_channels, in_chans, source),
        "in_chans": in_chans,
        "num_experts": num_experts,
        "num_layers": len(groups),
        "embedding_dim": embedding_dim,
        "global_kernel_size": global_kernel_size,
        "lr_space": _lr_space(ranks, source),
    }


def _scale(out_channels: int, in_chans: int, source: str) -> int:
    scale = math.isqrt(out_channels // max(in_chans, 1))
    if scale < 1 or scale**2 * in_chans != out_channels:
        raise WeightsError(f"{source}: upsampler.0.weight has {out_channels} outputs, which is not 3·scale²")
    return scale


def _lr_space(ranks: list[int], source: str) -> str:
    # One or two experts can match several values of `lr_space`, which then describe the same network.
    for name, rank_of in RANK_OF_EXPERT.items():
        if ranks == [rank_of(i) for i in range(len(ranks))]:
            return name
    raise WeightsError(f"{source}: the experts have the ranks {ranks}, which match none of {', '.join(RANK_OF_EXPERT)}")


def _matching_variant(read: Mapping[str, Any]) -> SeemoReConfig | None:
    if read["scale"] not in (2, 3, 4):
        return None
    for name in VARIANTS:
        variant = SeemoReConfig.variant(name, read["scale"])
        if all(getattr(variant, field) == value for field, value in read.items()):
            return variant
    return None
