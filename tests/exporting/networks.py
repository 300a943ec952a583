"""Small networks that use all operations of an export, images for them, and their expected results."""

from typing import Any

import numpy as np

from seemore_jax.network import SeemoReConfig
from tests.support.release import PARITY, ROUTED_IMAGES, images, run_release

TOLERANCE = PARITY
CONFIGS = {
    "T": SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1),
    "B": SeemoReConfig.variant("B", 3, embedding_dim=16, num_layers=1),
    "L": SeemoReConfig.variant("L", 4, embedding_dim=12, num_layers=1),
    "none of them": SeemoReConfig.variant(
        "L", 2, embedding_dim=8, num_layers=2, num_experts=4, topk=2, img_range=255.0, lr_space="double"
    ),
}

# Sides below min_side, both or one; others that 4 divides or not; and images that route differently.
INPUTS = [images(1, 1, 1), images(2, 5, 40), images(1, 17, 23), images(1, 48, 64), ROUTED_IMAGES]


def by_release(release: Any, config: SeemoReConfig, lr: np.ndarray) -> np.ndarray:
    """Returns the output of the PyTorch release for images of any size, padded as in `SeemoRe` and then cropped."""
    height, width = lr.shape[1:3]
    missing = [(0, max(0, config.min_side - side)) for side in (height, width)]
    sr = run_release(release, np.pad(lr, ((0, 0), *missing, (0, 0)), mode="edge"))
    return sr[:, : height * config.scale, : width * config.scale]


def assert_routed_differently(experts: np.ndarray) -> None:
    """Asserts that the images choose different experts in each group, so that a constant choice would be noticed."""
    for group in range(experts.shape[1]):
        assert len(np.unique(np.sort(experts[:, group]), axis=0)) > 1
