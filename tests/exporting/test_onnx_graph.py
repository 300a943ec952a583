"""If these fail, an ONNX file computes other results than the model, or works only for some images or sizes."""

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from seemore_jax.network import SeemoRe, SeemoReConfig
from tests.exporting.networks import CONFIGS, INPUTS, TOLERANCE, assert_routed_differently, by_release
from tests.support.release import ROUTED_IMAGES, ported, release_model, run_compiled, zeros


def session(model: SeemoRe) -> Any:
    from seemore_jax.exporting.onnx_graph import to_onnx

    exported = to_onnx(model)
    onnx.checker.check_model(exported, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(network: Any, nhwc: np.ndarray) -> np.ndarray:
    return network.run(["sr"], {"lr": nhwc.transpose(0, 3, 1, 2)})[0].transpose(0, 2, 3, 1)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_is_the_releases_network_for_every_image_and_size(config: SeemoReConfig) -> None:
    release = release_model(config)
    network = session(ported(release, config))
    for lr in INPUTS:
        np.testing.assert_allclose(run(network, lr), by_release(release, config, lr), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["T", "none of them"])
def test_images_that_route_differently_give_the_models_output(name: str) -> None:
    model = ported(release_model(CONFIGS[name]), CONFIGS[name])
    expected, routing = run_compiled(model, ROUTED_IMAGES, return_routing=True)
    assert_routed_differently(np.asarray(routing.experts))
    network = session(model)
    np.testing.assert_allclose(run(network, ROUTED_IMAGES), expected, rtol=0, atol=TOLERANCE)
    alone = np.concatenate([run(network, image[None]) for image in ROUTED_IMAGES])
    np.testing.assert_allclose(alone, expected, rtol=0, atol=TOLERANCE)


def test_says_what_it_is() -> None:
    network = session(zeros(CONFIGS["L"]))
    metadata = network.get_modelmeta().custom_metadata_map
    assert metadata["scale"] == "4"
    assert SeemoReConfig.from_dict(json.loads(metadata["seemore_config"])) == CONFIGS["L"]
    assert "RGB" in metadata["input"]
    assert network.get_inputs()[0].shape == ["N", 3, "H", "W"]
    assert network.get_outputs()[0].shape == ["N", 3, "sH", "sW"]


def test_equal_networks_are_equal_files() -> None:
    from seemore_jax.exporting.onnx_graph import to_onnx

    first, second = (to_onnx(zeros(CONFIGS["B"])).SerializeToString() for _ in range(2))
    assert first == second
