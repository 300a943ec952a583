"""Converts parameters between the NNX modules and the names and layouts of the PyTorch release.

| seemore-jax               | PyTorch                          |
|---------------------------|----------------------------------|
| convolution (kh, kw, I, O)| (O, I, kh, kw)                   |
| pointwise (I, O)          | 1×1 convolution (O, I, 1, 1)     |
| router (I, O)             | linear (O, I)                    |
| LayerNorm scale           | weight                           |
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.porting.errors import WeightsError

_ROUTER = "groups.{}.rank_modulating.mixture_block.mixture.router.linear"

# Layer in seemore-jax → layer in the release. Each {} is an index, which is the same on both sides.
_TORCH_LAYERS = {
    "shallow_features": "conv_1",
    "groups.{}.rank_modulating.norm_1": "body.{}.local_block.norm_1",
    "groups.{}.rank_modulating.mixture_block.embed": "body.{}.local_block.block.conv_1.0",
    "groups.{}.rank_modulating.mixture_block.expand": "body.{}.local_block.block.conv_1.2",
    "groups.{}.rank_modulating.mixture_block.local.row": "body.{}.local_block.block.conv_2.0.conv.0",
    "groups.{}.rank_modulating.mixture_block.local.column": "body.{}.local_block.block.conv_2.0.conv.1",
    "groups.{}.rank_modulating.mixture_block.aggregate": "body.{}.local_block.block.agg_conv.0",
    "groups.{}.rank_modulating.mixture_block.context_depthwise": "body.{}.local_block.block.conv.0",
    "groups.{}.rank_modulating.mixture_block.context_pointwise": "body.{}.local_block.block.conv.1",
    _ROUTER: "body.{}.local_block.block.moe_layer.gate.body.2",
    "groups.{}.rank_modulating.mixture_block.mixture.experts.{}.from_features": (
        "body.{}.local_block.block.moe_layer.experts.{}.conv_1"
    ),
    "groups.{}.rank_modulating.mixture_block.mixture.experts.{}.from_context": (
        "body.{}.local_block.block.moe_layer.experts.{}.conv_2"
    ),
    "groups.{}.rank_modulating.mixture_block.mixture.experts.{}.up": (
        "body.{}.local_block.block.moe_layer.experts.{}.conv_3"
    ),
    "groups.{}.rank_modulating.mixture_block.project": "body.{}.local_block.block.proj",
    "groups.{}.rank_modulating.norm_2": "body.{}.local_block.norm_2",
    "groups.{}.rank_modulating.feed_forward.expand": "body.{}.local_block.ffn.fn_1.0",
    "groups.{}.rank_modulating.feed_forward.gate": "body.{}.local_block.ffn.gate",
    "groups.{}.rank_modulating.feed_forward.project": "body.{}.local_block.ffn.fn_2.0",
    "groups.{}.spatial_modulating.norm_1": "body.{}.global_block.norm_1",
    "groups.{}.spatial_modulating.enhancement.to_query_value": "body.{}.global_block.block.to_qv.0",
    "groups.{}.spatial_modulating.enhancement.striped.row": "body.{}.global_block.block.attn.conv.0",
    "groups.{}.spatial_modulating.enhancement.striped.column": "body.{}.global_block.block.attn.conv.1",
    "groups.{}.spatial_modulating.enhancement.project": "body.{}.global_block.block.proj",
    "groups.{}.spatial_modulating.norm_2": "body.{}.global_block.norm_2",
    "groups.{}.spatial_modulating.feed_forward.expand": "body.{}.global_block.ffn.fn_1.0",
    "groups.{}.spatial_modulating.feed_forward.gate": "body.{}.global_block.ffn.gate",
    "groups.{}.spatial_modulating.feed_forward.project": "body.{}.global_block.ffn.fn_2.0",
    "norm": "norm",
    "deep_features": "conv_2",
    "upsampler": "upsampler.0",
}
_TORCH_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}

Path = tuple[Any, ...]  # a path of NNX: names, and indices in lists


def to_torch(model: SeemoRe) -> dict[str, np.ndarray]:
    """Converts the parameters of a model to the names and layouts of the PyTorch release.

    Args:
      model: the model.

    Returns:
      float32 arrays by name.
    """
    tensors = {}
    for path, parameter in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        array = _to_torch_layout(path, np.asarray(parameter[...], np.float32))
        tensors[_torch_name(path)] = np.ascontiguousarray(array)
    return tensors


def from_torch(config: SeemoReConfig, tensors: Mapping[str, np.ndarray], source: str) -> SeemoRe:
    """Makes a model from parameters with the names and layouts of the PyTorch release.

    Args:
      config: the configuration of the model.
      tensors: floating-point arrays by name; they are converted to float32.
      source: the name of the file, for error messages.

    Returns:
      The model.

    Raises:
      WeightsError: a parameter of the model has no tensor, a tensor belongs to no parameter, or the shapes differ.
    """
    graph, abstract = nnx.split(SeemoRe.abstract(config))
    expected = {_torch_name(path): (path, leaf) for path, leaf in nnx.to_flat_state(abstract)}
    _check_names(expected, tensors, source)

    for name, (path, leaf) in expected.items():  # checks all shapes before any memory is allocated
        wanted = _torch_shape(path, leaf.shape)
        if tensors[name].shape != wanted:
            raise WeightsError(f"{source}: {name} has shape {tensors[name].shape}, expected {wanted}")
    filled = []
    for name, (path, leaf) in expected.items():
        array = _from_torch_layout(tensors[name], leaf.shape)
        filled.append((path, leaf.replace(jnp.asarray(array, jnp.float32))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _check_names(expected: Mapping[str, object], tensors: Mapping[str, object], source: str) -> None:
    missing = sorted(set(expected) - set(tensors))
    unused = sorted(set(tensors) - set(expected))
    if missing or unused:
        complaints = [f"missing {_shortened(missing)}"] * bool(missing) + [f"unknown {_shortened(unused)}"] * bool(
            unused
        )
        raise WeightsError(f"{source}: does not hold the parameters of this SeemoRe: {'; '.join(complaints)}")


def _shortened(names: list[str], shown: int = 5) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _torch_name(path: Path) -> str:
    *layer, leaf = path
    indices = [part for part in layer if isinstance(part, int)]
    return f"{_TORCH_LAYERS[_pattern(layer)].format(*indices)}.{_TORCH_LEAVES[str(leaf)]}"


def _pattern(layer: Sequence[Any]) -> str:
    return ".".join("{}" if isinstance(part, int) else part for part in layer)


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a parameter in the release's layout, without allocating the array."""
    return _to_torch_layout(path, np.broadcast_to(np.float32(0), shape)).shape


def _to_torch_layout(path: Path, array: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return array
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if _pattern(path[:-1]) == _ROUTER else array.T[..., None, None]


def _from_torch_layout(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if tensor.ndim == 1:
        return tensor
    if len(shape) == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.reshape(tensor.shape[:2]).T
