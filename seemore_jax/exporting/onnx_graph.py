"""Builds the network as an ONNX graph, operator by operator.

Nothing is traced, so the graph accepts images of any size, and the routers choose the experts inside the graph: the
weights of all experts are stacked, and `Gather` takes those of the experts that each image has chosen.

Feature maps are (N, C, H, W), the layout of ONNX's convolutions and of the release's parameters. The functions take
layers by their names in the release (`seemore_jax.porting.names`). `seemore_jax.network.seemore` explains what each
block computes.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.network.seemore import RGB_MEAN
from seemore_jax.porting.names import to_torch
from seemore_jax.version import __version__

_OPSET = 20  # the first version with Gelu
_IR_VERSION = 9  # the version of the same release, ONNX 1.15; older runtimes refuse newer versions
_INPUT = "float32 (N, 3, H, W), RGB with values in [0, 1], any N, H and W from 1"
_OUTPUT = "float32 (N, 3, scale·H, scale·W), RGB, nominally in [0, 1] but not clipped"


def to_onnx(model: SeemoRe) -> onnx.ModelProto:
    """Converts a network to ONNX.

    Args:
      model: the network. Its `compute_dtype` and `precision` are ignored: the ONNX model computes in float32.

    Returns:
      A model with the weights, which maps "lr" to "sr". "lr" is float32 (N, 3, H, W), RGB in [0, 1], with any N, H and
      W from 1. "sr" is float32 (N, 3, scale·H, scale·W), nominally in [0, 1] but not clipped. The metadata have the
      scale, the configuration, and descriptions of "lr" and "sr".
    """
    graph = _Graph(to_torch(model))
    _network(graph, model.config)
    result = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "SeemoRe",
            [helper.make_tensor_value_info("lr", TensorProto.FLOAT, ("N", 3, "H", "W"), _INPUT)],
            [helper.make_tensor_value_info("sr", TensorProto.FLOAT, ("N", 3, "sH", "sW"), _OUTPUT)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="seemore-jax",
        producer_version=__version__,
    )
    metadata = {"scale": str(model.config.scale), "input": _INPUT, "output": _OUTPUT}
    helper.set_model_props(result, {**metadata, "seemore_config": json.dumps(model.config.to_dict())})
    return result


class _Graph:
    """The nodes and constants of a graph under construction. Values are strings: the names of nodes' outputs.

    A node has the name of its first output.
    """

    def __init__(self, parameters: Mapping[str, np.ndarray]) -> None:
        self.parameters = parameters
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: Any, output: str | None = None, **attributes: Any) -> str:
        """Adds a node and returns the name of its output. Inputs that are not names become constants."""
        return self._add(operator, inputs, [output or f"{operator}_{len(self.nodes)}"], attributes)[0]

    def top_k(self, x: str, count: int) -> tuple[str, str]:
        """Returns the `count` largest values along the last axis, and their indices."""
        outputs = [f"{name}_{len(self.nodes)}" for name in ("Largest", "Chosen")]
        values, indices = self._add("TopK", [x, [count]], outputs, {"axis": -1})
        return values, indices

    def _add(self, operator: str, inputs: Any, outputs: list[str], attributes: dict[str, Any]) -> list[str]:
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(operator, names, outputs, outputs[0], **attributes))
        return outputs

    def _constant(self, value: Any) -> str:
        """Adds a constant: int64 for integers (sizes, axes, indices), otherwise float32."""
        array = np.asarray(value)
        array = np.ascontiguousarray(array, np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def layer(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the weight and the bias of a layer."""
        return self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]

    def convolution(self, name: str, x: str) -> str:
        """Applies a convolution with stride 1, and zero padding that keeps the size."""
        return self.convolve(x, *self.layer(name))

    def depthwise(self, name: str, x: str, *, stride: int = 1) -> str:
        """Applies a depthwise convolution. Only with stride 1, zero padding keeps the size."""
        weight, bias = self.layer(name)
        return self.convolve(x, weight, bias, groups=len(bias), stride=stride)

    def convolve(self, x: str, weight: np.ndarray, bias: np.ndarray, *, groups: int = 1, stride: int = 1) -> str:
        """Applies a convolution with the given weight (O, I, kh, kw) and bias (O)."""
        size = weight.shape[2:]
        before = [(side - 1) // 2 if stride == 1 else 0 for side in size]
        pads, strides = [*before, *before], [stride, stride]
        return self("Conv", x, weight, bias, kernel_shape=size, pads=pads, strides=strides, group=groups)

    def layer_norm(self, name: str, x: str) -> str:
        """Applies LayerNorm over the channels. The axes are transposed, because ONNX normalizes only the last ones."""
        x = self("Transpose", x, perm=[0, 2, 3, 1])
        x = self("LayerNormalization", x, *self.layer(name), axis=-1, epsilon=1e-6)
        return self("Transpose", x, perm=[0, 3, 1, 2])

    def halves(self, name: str, x: str, *, shuffled: bool = False) -> tuple[str, str]:
        """Applies a pointwise layer and splits the channels into halves, after shuffling them if wanted.

        Each half is a convolution of its own, so that no data are moved to shuffle and split the channels.
        """
        weight, bias = self.layer(name)
        channels = np.arange(len(bias)).reshape(2, -1)
        if shuffled:
            channels = channels.T.reshape(2, -1)
        first, second = (self.convolve(x, weight[half], bias[half]) for half in channels)
        return first, second


def _network(graph: _Graph, config: SeemoReConfig) -> None:
    mean = np.reshape(RGB_MEAN, (3, 1, 1))
    x = graph("Mul", graph("Sub", _padded(graph, "lr", config.min_side), mean), config.img_range)
    shallow = x = graph.convolution("conv_1", x)
    for group in range(config.num_layers):
        x = _rank_modulating_expert(graph, f"body.{group}.local_block", x, config)
        x = _spatial_modulating_expert(graph, f"body.{group}.global_block", x)
    x = graph("Add", graph.convolution("conv_2", graph.layer_norm("norm", x)), shallow)
    x = graph("DepthToSpace", graph.convolution("upsampler.0", x), blocksize=config.scale, mode="CRD")
    x = graph("Add", graph("Div", x, config.img_range), mean)
    sides = graph("Mul", graph("Shape", "lr", start=2), [config.scale, config.scale])
    graph("Slice", x, [0, 0], sides, [2, 3], output="sr")


def _padded(graph: _Graph, x: str, min_side: int) -> str:
    """Repeats the last row and column until each side has `min_side` pixels."""
    missing = graph("Max", graph("Sub", [min_side, min_side], graph("Shape", x, start=2)), [0, 0])
    return graph("Pad", x, graph("Concat", [0, 0, 0, 0, 0, 0], missing, axis=0), mode="edge")


def _rank_modulating_expert(graph: _Graph, name: str, x: str, config: SeemoReConfig) -> str:
    x = graph("Add", x, _mixture_block(graph, f"{name}.block", graph.layer_norm(f"{name}.norm_1", x), config))
    return graph("Add", x, _gated_feed_forward(graph, f"{name}.ffn", graph.layer_norm(f"{name}.norm_2", x)))


def _mixture_block(graph: _Graph, name: str, x: str, config: SeemoReConfig) -> str:
    x = graph("Gelu", graph.convolution(f"{name}.conv_1.0", x))
    features, context = graph.halves(f"{name}.conv_1.2", x, shuffled=config.use_shuffle)
    features = graph("Gelu", _striped(graph, f"{name}.conv_2.0.conv", features))
    context = _calibrated(graph, name, context, config.recursive)
    return graph.convolution(f"{name}.proj", _mixture(graph, f"{name}.moe_layer", features, context, config))


def _striped(graph: _Graph, name: str, x: str) -> str:
    return graph.depthwise(f"{name}.1", graph.depthwise(f"{name}.0", x))


def _calibrated(graph: _Graph, name: str, context: str, recursive: int) -> str:
    summary = context
    for _ in range(recursive):
        summary = graph("Gelu", graph.depthwise(f"{name}.agg_conv.0", summary, stride=4))
    summary = graph.convolution(f"{name}.conv.1", graph.depthwise(f"{name}.conv.0", summary))
    # ONNX's defaults are half-pixel centres and no antialiasing, as in the network.
    return graph("Add", context, graph("Resize", summary, "", "", graph("Shape", context), mode="linear"))


def _mixture(graph: _Graph, name: str, features: str, context: str, config: SeemoReConfig) -> str:
    """Applies the chosen experts of each image as one expert, whose rank is the sum of theirs: K·R after padding."""
    channels, ranks = config.embedding_dim, config.topk * max(config.ranks)
    router = graph.parameters[f"{name}.gate.body.2.weight"].T
    logits = graph("MatMul", graph("ReduceMean", features, [2, 3], keepdims=0), router)
    weights, chosen = graph.top_k(graph("Softmax", logits, axis=-1), config.topk)

    def gathered(leaf: str) -> str:
        experts = [graph.parameters[f"{name}.experts.{i}.{leaf}"] for i in range(config.num_experts)]
        return graph("Gather", _stacked(experts, leaf, max(config.ranks)), chosen)

    def project(x: str, layer: str) -> str:
        kernel = graph("Reshape", gathered(f"{layer}.weight"), [-1, ranks, channels])
        bias = graph("Reshape", gathered(f"{layer}.bias"), [-1, ranks, 1])
        return graph("Add", graph("MatMul", kernel, graph("Reshape", x, [0, channels, -1])), bias)

    low_rank = graph("Mul", project(features, "conv_1"), project(context, "conv_2"))
    up = graph("Mul", gathered("conv_3.weight"), graph("Unsqueeze", weights, [2, 3]))
    up = graph("Transpose", graph("Reshape", up, [-1, ranks, channels]), perm=[0, 2, 1])
    mixed = graph("Reshape", graph("MatMul", up, low_rank), graph("Shape", features))
    up_bias = graph("MatMul", graph("Unsqueeze", weights, [1]), gathered("conv_3.bias"))
    return graph("Add", graph("Add", features, mixed), graph("Reshape", up_bias, [-1, channels, 1, 1]))


def _stacked(experts: list[np.ndarray], leaf: str, rank: int) -> np.ndarray:
    """Stacks a parameter of all experts, padded with zeros to the largest rank: (E, R, C), (E, R) or (E, C)."""
    if leaf == "conv_3.bias":
        return np.stack(experts)
    arrays = [array.squeeze(axis=(2, 3)) if leaf.endswith("weight") else array for array in experts]
    arrays = [array.T if leaf == "conv_3.weight" else array for array in arrays]
    return np.stack([np.pad(array, [(0, rank - len(array)), (0, 0)][: array.ndim]) for array in arrays])


def _spatial_modulating_expert(graph: _Graph, name: str, x: str) -> str:
    x = graph("Add", x, _spatial_enhancement(graph, f"{name}.block", graph.layer_norm(f"{name}.norm_1", x)))
    return graph("Add", x, _gated_feed_forward(graph, f"{name}.ffn", graph.layer_norm(f"{name}.norm_2", x)))


def _spatial_enhancement(graph: _Graph, name: str, x: str) -> str:
    query, value = (graph("Gelu", half) for half in graph.halves(f"{name}.to_qv.0", x))
    return graph.convolution(f"{name}.proj", graph("Mul", _striped(graph, f"{name}.attn.conv", query), value))


def _gated_feed_forward(graph: _Graph, name: str, x: str) -> str:
    values, gate = (graph("Gelu", half) for half in graph.halves(f"{name}.fn_1.0", x))
    gated = graph("Mul", values, graph.depthwise(f"{name}.gate", gate))
    return graph("Gelu", graph.convolution(f"{name}.fn_2.0", gated))
