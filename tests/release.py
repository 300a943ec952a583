"""The oracle: the PyTorch release's network (`seemore` on PyPI), with weights that exercise all of it."""

import functools
from collections.abc import Callable

import jax
import numpy as np
import seemore.module
import torch
from flax import nnx

from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.porting.names import from_torch

PARITY = 2e-5


def release_model(config: SeemoReConfig, seed: int = 0) -> torch.nn.Module:
    """The release's network of that configuration, in evaluation mode, with perturbed weights.

    PyTorch's initial weights leave norms and most of the routing trivial: norms get a scale and a shift, and
    the routers weights large enough that different images choose different experts.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = seemore.module.SeemoRe(**config.to_dict())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter += 0.2 * noise
            elif "gate.body" in name:
                parameter.copy_(3 * noise)
            else:
                parameter += 0.3 * parameter.std() * noise if parameter.numel() > 1 else 0.1 * noise
    return model.eval()


def ported(model: torch.nn.Module, config: SeemoReConfig) -> SeemoRe:
    """The same network here."""
    return from_torch(config, {name: tensor.numpy() for name, tensor in model.state_dict().items()}, "oracle")


def images(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Float images (N, H, W, 3) in [0, 1] that differ in colour, contrast and texture, to route differently."""
    rng = np.random.default_rng(seed)
    color = rng.uniform(0, 1, (count, 1, 1, 3))
    contrast = rng.uniform(0, 0.6, (count, 1, 1, 1))
    texture = rng.uniform(-1, 1, (count, height, width, 3))
    return np.clip(color + contrast * texture, 0, 1).astype(np.float32)


def run_release(model: torch.nn.Module, nhwc: np.ndarray) -> np.ndarray:
    """The release's output, image by image (in evaluation it takes no larger batch), as (N, H, W, C)."""
    with torch.no_grad():
        return np.concatenate([to_nhwc(model(to_nchw(image[None]))) for image in nhwc])


def to_nchw(nhwc: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(nhwc.transpose(0, 3, 1, 2)))


def to_nhwc(nchw: torch.Tensor) -> np.ndarray:
    return nchw.detach().numpy().transpose(0, 2, 3, 1)


def jitted[**P, T](module: Callable[P, T]) -> Callable[P, T]:
    """A module as a compiled function."""
    graph, state = nnx.split(module)

    @functools.wraps(type(module).__call__)
    def call(*arguments, **options):  # type: ignore[no-untyped-def]
        return run(state, *arguments)

    run = jax.jit(lambda state, *arguments: nnx.merge(graph, state)(*arguments))
    return call
