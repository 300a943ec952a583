"""Trains the PyTorch release's network as the release does: its loss, its optimizer, and its images in NCHW."""

from typing import Any

import numpy as np
import torch
from torch import nn

SPECTRUM_WEIGHT = 0.1
BETAS = (0.9, 0.99)  # of Adam


def release_loss(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """Returns L1 + 0.1 · L1 of the stacked real and imaginary parts of the spectra, as the release writes it."""
    spectrum, target = (torch.view_as_real(torch.fft.rfft2(image)) for image in (sr, hr))
    return nn.functional.l1_loss(sr, hr) + SPECTRUM_WEIGHT * nn.functional.l1_loss(spectrum, target)


def adam(network: Any, learning_rate: float, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """Returns the release's optimizer; `fused` chooses PyTorch's program that updates all weights at once."""
    return torch.optim.Adam(network.parameters(), lr=learning_rate, betas=BETAS, fused=fused)


def to_nchw(
    images: np.ndarray,
    device: torch.device | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Returns uint8 images (N, H, W, 3) as float32 (N, 3, H, W) in [0, 1]."""
    writable = np.require(images, requirements="W")  # PyTorch warns about arrays that cannot be written.
    on_device = torch.from_numpy(writable).to(device)
    return (on_device.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=memory_format)
