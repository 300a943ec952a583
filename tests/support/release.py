"""Oracle of the parity tests: the network of the PyTorch release (`seemore` on PyPI), with perturbed weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seemore.module
import torch
from flax import nnx

from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.porting.names import from_torch

PARITY = 2e-5


def images(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns float images (N, H, W, 3) in [0, 1], different in colour and contrast, so that routings differ."""
    rng = np.random.default_rng(seed)
    color = rng.uniform(0, 1, (count, 1, 1, 3))
    contrast = rng.uniform(0, 0.6, (count, 1, 1, 1))
    texture = rng.uniform(-1, 1, (count, height, width, 3))
    return np.clip(color + contrast * texture, 0, 1).astype(np.float32)


ROUTED_IMAGES = images(6, 17, 23)


def release_model(config: SeemoReConfig, seed: int = 0) -> Any:
    """Returns the network of the release in evaluation mode, with perturbed weights.

    With PyTorch's initial weights, the norms have no effect, and all images choose the same experts. Here, the norms
    have a scale and a shift, and the routers are fitted so that image i of `ROUTED_IMAGES` chooses expert i mod
    num_experts in every layer.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = seemore.module.SeemoRe(**config.to_dict())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.2 * noise if "norm" in name else 0.3 * parameter.abs().mean() * noise
        _fit_routers(model, config.min_side)
    return model.eval()


def _fit_routers(model: Any, min_side: int) -> None:
    """Sets the weights of the routers by least squares."""

    def fit(router: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        pooled = inputs[0].mean(dim=(2, 3))
        linear = router.body[2]
        experts = linear.weight.shape[0]
        wanted = 3 * torch.nn.functional.one_hot(torch.arange(len(pooled)) % experts, experts).float()
        linear.weight.copy_(torch.linalg.lstsq(pooled, wanted, driver="gelsd").solution.T)

    handles = [group.local_block.block.moe_layer.gate.register_forward_pre_hook(fit) for group in model.body]
    missing = [(0, max(0, min_side - side)) for side in ROUTED_IMAGES.shape[1:3]]
    padded = np.pad(ROUTED_IMAGES, ((0, 0), *missing, (0, 0)), mode="edge")
    model.train()(to_nchw(padded))  # each layer is fitted after the layers before it
    for handle in handles:
        handle.remove()


def ported(model: Any, config: SeemoReConfig) -> SeemoRe:
    """Returns this project's network with the weights of a network of the release."""
    return from_torch(config, {name: tensor.numpy() for name, tensor in model.state_dict().items()}, "oracle")


def zeros(config: SeemoReConfig) -> SeemoRe:
    """Returns a network whose parameters are all zero, for tests that need any network."""
    graph, abstract = nnx.split(SeemoRe.abstract(config))
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract))


def run_release(model: Any, nhwc: np.ndarray) -> np.ndarray:
    """Returns the output of the release, (N, H, W, C), computed image by image: evaluation takes no batch."""
    with torch.no_grad():
        return np.concatenate([to_nhwc(model(to_nchw(image[None]))) for image in nhwc])


def to_nchw(nhwc: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(nhwc.transpose(0, 3, 1, 2)))


def to_nhwc(nchw: torch.Tensor) -> np.ndarray:
    return nchw.detach().numpy().transpose(0, 2, 3, 1)


def run_compiled(module: nnx.Module, *arguments: Any, **options: Any) -> Any:
    """Returns the output of a module, computed by a compiled function."""
    graph, state = nnx.split(module)
    return jax.jit(lambda state, *inputs: nnx.merge(graph, state)(*inputs, **options))(state, *arguments)
