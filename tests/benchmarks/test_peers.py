"""If these fail, the peers do not compute the function of the release, and comparisons with them mean nothing."""

import importlib.util
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks import peers
from benchmarks.harness.timing import Call
from seemore_jax import SeemoReConfig
from tests.support.release import ROUTED_IMAGES, release_model, run_release, to_nchw, to_nhwc

TINY = SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=2)
UINT8 = np.round(255 * ROUTED_IMAGES).astype(np.uint8)


@pytest.mark.parametrize("topk", [1, 2])
def test_gathered_experts_are_the_releases(topk: int) -> None:
    release = release_model(SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=2, topk=topk))
    network = peers.with_gathered_experts(release)
    with torch.no_grad():
        found = np.concatenate([to_nhwc(network(to_nchw(image[None]))) for image in ROUTED_IMAGES])
    np.testing.assert_allclose(found, run_release(release, ROUTED_IMAGES), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_are_the_releases_rounded(channels_last: bool) -> None:
    release = release_model(TINY)
    module = peers.image_to_image(release, channels_last=channels_last, dtype="float32")
    found = np.stack([peers.torch_call(module, image)() for image in UINT8])
    assert found.dtype == np.uint8
    assert _difference(found, _expected(release)) <= 1


@pytest.mark.parametrize(
    ("make", "package"), [(peers.onnx_runtime, "onnxruntime"), (peers.openvino, "openvino")], ids=["onnx", "openvino"]
)
def test_exported_network_routes_each_image(make: Callable[..., tuple[str, Call]], package: str) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", package)):
        with pytest.raises(peers.Unavailable, match=r"pip install '\.\[benchmark\]'"):
            make(release_model(TINY), UINT8[0], dtype="float32")
        return
    release = release_model(TINY)
    image = UINT8[0].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter and OpenVINO warn about themselves.
        _, call = make(release, image, dtype="float32")
        found = []
        for routed in UINT8:
            image[:] = routed  # The call upscales the present content of its image.
            found.append(call())
    assert _difference(np.stack(found), _expected(release)) <= 1


def _expected(release: torch.nn.Module) -> np.ndarray:
    lr = UINT8.astype(np.float32) / 255
    return np.round(255 * np.clip(run_release(release, lr), 0, 1)).astype(np.uint8)


def _difference(found: np.ndarray, expected: np.ndarray) -> int:
    return int(np.abs(found.astype(int) - expected).max())
