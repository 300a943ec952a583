"""The PyTorch release's network, as the fastest that PyTorch, ONNX Runtime and OpenVINO make of it.

Whoever upscales here is a function without arguments that upscales one given uint8 image (H, W, 3) to uint8, the
conversions included. A GPU is used where PyTorch sees one.
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

from benchmarks.timing import Call, fastest_setting, usable_cores
from seemore_jax import SeemoRe, SeemoReConfig
from seemore_jax.porting.names import from_torch

INSTALL = "pip install '.[benchmark]'"


class Unavailable(Exception):
    """A peer that cannot run here; the message says why, and what to do."""


def release_network(config: SeemoReConfig, seed: int = 0) -> Any:
    """The release's network with PyTorch's initial weights, in evaluation mode."""
    torch.manual_seed(seed)
    return seemore.module.SeemoRe(**config.to_dict()).eval()


def ported(network: Any, config: SeemoReConfig) -> SeemoRe:
    """The same network here."""
    return from_torch(config, {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}, "release")


def torch_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_all_cores() -> None:
    """Gives PyTorch the threads that the others take by themselves, and float32 its digits on a GPU."""
    torch.set_num_threads(usable_cores())
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


class GatheredExperts(nn.Module):
    """The release's `MoELayer` for one image, with the chosen expert's weights taken out of a stack by a tensor.

    The release picks the expert by a Python index. An export freezes it to the choice for one image, and a compiled
    program is cut in two at it; this computes the same function, and its exports route each image.
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
    """A copy of the release's network that routes inside the program."""
    network = copy.deepcopy(network)
    for group in network.body:
        group.local_block.block.moe_layer = GatheredExperts(group.local_block.block.moe_layer)
    return network


class ImageToImage(nn.Module):
    """uint8 (1, H, W, 3) to uint8 (1, sH, sW, 3) around a network."""

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
    """The network on PyTorch's device, in the given layout and type ("float32" or "bfloat16")."""
    network = copy.deepcopy(network).to(torch_device(), getattr(torch, dtype))
    if channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return ImageToImage(network, channels_last=channels_last, dtype=getattr(torch, dtype)).eval()


def torch_call(module: Callable[[torch.Tensor], torch.Tensor], image: np.ndarray, *, on_device: bool = False) -> Call:
    """Upscales with PyTorch; with `on_device` from device memory to device memory."""
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
    """The release as it is, in the faster of the two layouts; and which one that was."""
    calls = {
        name: torch_call(image_to_image(network, channels_last=last, dtype=dtype), image, on_device=on_device)
        for name, last in (("contiguous", False), ("channels_last", True))
    }
    setting = fastest_setting(calls)
    return setting, calls[setting]


def compiled(network: Any, image: np.ndarray, *, dtype: str, on_device: bool) -> tuple[str, Call]:
    """`torch.compile`, whole, in the fastest of its settings; and which one that was."""
    network = with_gathered_experts(network)
    calls = {}
    for name, last, options in _compile_settings():
        module = image_to_image(network, channels_last=last, dtype=dtype)
        calls[name] = torch_call(torch.compile(module, fullgraph=True, **options), image, on_device=on_device)
    setting = fastest_setting(calls)
    return setting, calls[setting]


def _compile_settings() -> Iterator[tuple[str, bool, dict[str, Any]]]:
    layouts = (("contiguous", False), ("channels_last", True))
    if torch_device().type == "cuda":
        # Without CUDA graphs, small kernels wait for the host.
        modes: dict[str, dict[str, Any]] = {mode: {"mode": mode} for mode in ("default", "max-autotune")}
    else:
        modes = {"default": {}, "freezing": {"options": {"freezing": True}}}
    for (layout, last), (mode, options) in itertools.product(layouts, modes.items()):
        yield f"{layout}, {mode}", last, options


def onnx_runtime(network: Any, image: np.ndarray, *, dtype: str) -> tuple[str, Call]:
    """ONNX Runtime on the CPU, with its optimizations on, as they are by default."""
    _require("onnx", "onnxscript", "onnxruntime")
    if dtype != "float32":
        raise Unavailable("its CPU kernels have no bfloat16")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with exported(network, image) as path:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return "routes each image", lambda: session.run(None, {"image": image[None]})[0][0]


def openvino(network: Any, image: np.ndarray, *, dtype: str) -> tuple[str, Call]:
    """OpenVINO on the CPU, tuned for latency."""
    _require("onnx", "onnxscript", "openvino")
    # Its import would send usage statistics from a fork of this process, which has threads.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as ov

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": usable_cores(),
        # Otherwise float32 becomes bfloat16 on CPUs that have it.
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
    }
    with exported(network, image) as path:
        request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
    return "routes each image", lambda: request.infer([image[None]])[0][0].copy()


@contextlib.contextmanager
def exported(network: Any, image: np.ndarray) -> Iterator[Path]:
    """An ONNX file of the network for images of that size, which lives as long as the block."""
    module = ImageToImage(with_gathered_experts(network), channels_last=False, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It warns of operators of packages that are not there.
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
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise Unavailable(f"needs {', '.join(missing)}: {INSTALL}")


def release_loss(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """L1 + 0.1 · L1 of the stacked real and imaginary parts of the images' spectra, as the release writes it."""
    spectrum, target = (torch.view_as_real(torch.fft.rfft2(image)) for image in (sr, hr))
    return nn.functional.l1_loss(sr, hr) + 0.1 * nn.functional.l1_loss(spectrum, target)
