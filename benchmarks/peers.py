"""Upscales with the PyTorch release's network in PyTorch, ONNX Runtime and OpenVINO, each in its fastest setting.

Each peer is returned as a function without arguments. It upscales one given uint8 image (H, W, 3) to uint8; the
conversions are part of the call. PyTorch uses a GPU if there is one.
"""

import contextlib
import copy
import importlib.util
import itertools
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import seemore.module
import torch
from torch import nn

from benchmarks.harness.records import usable_cores
from benchmarks.harness.timing import Call, fastest_setting
from seemore_jax import SeemoRe, SeemoReConfig
from seemore_jax.porting.names import from_torch

INSTALL = "pip install '.[benchmark]'"


class Unavailable(Exception):
    """Says why a peer cannot run on this machine, and what to do about it."""


def release_network(config: SeemoReConfig, seed: int = 0) -> Any:
    """Returns the release's network with PyTorch's initial weights, in evaluation mode."""
    torch.manual_seed(seed)
    return seemore.module.SeemoRe(**config.to_dict()).eval()


def ported(network: Any, config: SeemoReConfig) -> SeemoRe:
    """Returns this package's network with the same weights."""
    return from_torch(config, {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}, "release")


def torch_device() -> torch.device:
    """Returns the first GPU, or the CPU if there is no GPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_all_cores() -> None:
    """Lets PyTorch use all cores, as the others do by default, and keeps float32 exact on a GPU."""
    torch.set_num_threads(usable_cores())
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


class GatheredExperts(nn.Module):
    """Computes the release's `MoELayer` for one image with an expert that is selected inside the program.

    The release selects the expert with a Python index. An export would keep the choice for one image, and
    `torch.compile` would split the program at the index. This module stacks the experts' weights and selects from the
    stack with a tensor: the function is the same, and an export routes each image.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.gate, self.topk = layer.gate, layer.num_expert
        rank = max(expert.conv_1.out_channels for expert in layer.experts)
        for name, padded_axis in (("conv_1", 0), ("conv_2", 0), ("conv_3", 1)):
            convolutions = [getattr(expert, name) for expert in layer.experts]
            weights = [_padded(convolution.weight[..., 0, 0], padded_axis, rank) for convolution in convolutions]
            biases = [convolution.bias[:, None] for convolution in convolutions]
            if padded_axis == 0:
                biases = [_padded(bias, 0, rank) for bias in biases]
            self.register_buffer(f"{name}_weight", torch.stack(weights).detach())
            self.register_buffer(f"{name}_bias", torch.stack(biases).detach())

    def forward(self, inputs: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        weights = nn.functional.softmax(self.gate(inputs), dim=1, dtype=torch.float).to(inputs.dtype)
        weights, chosen = torch.topk(weights, self.topk)
        features, context = (x.reshape(*x.shape[:2], -1) for x in (inputs, context))
        mixed = features
        for k in range(self.topk):
            expert = chosen[:, k]
            low_rank = self._project("conv_1", expert, features) * self._project("conv_2", expert, context)
            mixed = mixed + self._project("conv_3", expert, low_rank) * weights[:, k : k + 1, None]
        return mixed.reshape(inputs.shape)

    def _project(self, name: str, expert: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        weight, bias = (getattr(self, f"{name}_{kind}").index_select(0, expert) for kind in ("weight", "bias"))
        return torch.matmul(weight, x) + bias


def _padded(weight: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    after = size - weight.shape[axis]
    return nn.functional.pad(weight, (0, 0, 0, after) if axis == 0 else (0, after))


def with_gathered_experts(network: Any) -> Any:
    """Returns a copy of the release's network that routes inside the program."""
    network = copy.deepcopy(network)
    for group in network.body:
        group.local_block.block.moe_layer = GatheredExperts(group.local_block.block.moe_layer)
    return network


class ImageToImage(nn.Module):
    """Wraps a network, so that it takes uint8 (1, H, W, 3) and returns uint8 (1, sH, sW, 3)."""

    def __init__(self, network: Any, *, channels_last: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.dtype = dtype

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        lr = (image.permute(0, 3, 1, 2).float() / 255).to(self.dtype)
        sr = self.network(lr.contiguous(memory_format=self.memory_format)).float()
        return (sr.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def image_to_image(network: Any, *, channels_last: bool, dtype: str) -> ImageToImage:
    """Returns the network on PyTorch's device, in the given memory layout and type ("float32" or "bfloat16")."""
    network = copy.deepcopy(network).to(torch_device(), getattr(torch, dtype))
    if channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return ImageToImage(network, channels_last=channels_last, dtype=getattr(torch, dtype)).eval()


def torch_call(module: Callable[[torch.Tensor], torch.Tensor], image: np.ndarray, *, on_device: bool = False) -> Call:
    """Returns a call that upscales with PyTorch from host memory, or, with `on_device`, from device memory."""
    device = torch_device()
    host = torch.from_numpy(image[None])
    resident = host.to(device)

    @torch.inference_mode()
    def from_host() -> np.ndarray:
        return module(host.to(device)).cpu().numpy()[0]

    @torch.inference_mode()
    def from_device() -> torch.Tensor:
        sr = module(resident)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return sr[0]

    return from_device if on_device else from_host


def eager(network: Any, image: np.ndarray, *, dtype: str, on_device: bool) -> tuple[str, Call]:
    """Returns the name of the faster memory layout, and a call of the release as it is in that layout."""
    calls = {
        name: torch_call(image_to_image(network, channels_last=last, dtype=dtype), image, on_device=on_device)
        for name, last in (("contiguous", False), ("channels_last", True))
    }
    setting = fastest_setting(calls)
    return setting, calls[setting]


def compiled(network: Any, image: np.ndarray, *, dtype: str, on_device: bool) -> tuple[str, Call]:
    """Returns the name of the fastest setting of `torch.compile`, and a call of the network compiled as one program."""
    network = with_gathered_experts(network)
    calls = {}
    for name, last, options in _compile_settings():
        module = image_to_image(network, channels_last=last, dtype=dtype)
        calls[name] = torch_call(torch.compile(module, fullgraph=True, **options), image, on_device=on_device)
    setting = fastest_setting(calls)
    return setting, calls[setting]


def _compile_settings() -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """Yields the name, whether the layout is channels_last, and the options of each setting of `torch.compile`."""
    layouts = (("contiguous", False), ("channels_last", True))
    if torch_device().type == "cuda":
        # max-autotune uses CUDA graphs; without them, small kernels wait for the host.
        modes: dict[str, dict[str, Any]] = {mode: {"mode": mode} for mode in ("default", "max-autotune")}
    else:
        modes = {"default": {}, "freezing": {"options": {"freezing": True}}}
    for (layout, last), (mode, options) in itertools.product(layouts, modes.items()):
        yield f"{layout}, {mode}", last, options


def onnx_runtime(network: Any, image: np.ndarray, *, dtype: str) -> tuple[str, Call]:
    """Returns a setting and a call of ONNX Runtime on the CPU, with all its optimizations, as by default."""
    _require("onnx", "onnxscript", "onnxruntime")
    if dtype != "float32":
        raise Unavailable("ONNX Runtime has no bfloat16 kernels for CPUs")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with exported(network, image) as path:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return "routes each image", lambda: session.run(None, {"image": image[None]})[0][0]


def openvino(network: Any, image: np.ndarray, *, dtype: str) -> tuple[str, Call]:
    """Returns a setting and a call of OpenVINO on the CPU, tuned for latency."""
    _require("onnx", "onnxscript", "openvino")
    # OpenVINO would send usage statistics from a fork of this process, which is unsafe in a process with threads.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as ov

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": usable_cores(),
        # Otherwise OpenVINO computes float32 networks in bfloat16 on CPUs that support it.
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
    }
    with exported(network, image) as path:
        request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
    return "routes each image", lambda: request.infer([image[None]])[0][0].copy()


@contextlib.contextmanager
def exported(network: Any, image: np.ndarray) -> Iterator[Path]:
    """Writes an ONNX file of the network for images of that size, and deletes it at the end of the block."""
    module = ImageToImage(with_gathered_experts(network), channels_last=False, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The exporter warns about operators of packages that are not installed.
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            module.eval(),
            (torch.from_numpy(image[None]),),
            path,
            input_names=["image"],
            output_names=["upscaled"],
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
        yield path


def _require(*packages: str) -> None:
    """Raises `Unavailable` if a package is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise Unavailable(f"it needs {', '.join(missing)}: {INSTALL}")
