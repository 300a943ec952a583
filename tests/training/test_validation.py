"""If these fail, validation while training measures something else than `eval.py`."""

from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import seemore_jax as sj
from seemore_jax.data import write_image
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.evaluation.benchmark import Scores, evaluate_images
from seemore_jax.training.step import make_mesh
from seemore_jax.training.validation import Validation
from tests.support.release import ported, release_model

CONFIG = sj.SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1, recursive=1, global_kernel_size=3)


def test_scores_are_those_of_an_evaluation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shape in {"A/x": (40, 48), "A/y": (48, 40), "A/z": (40, 48), "B/w": (48, 40)}.items():
        write_image(tmp_path / f"{name}.png", rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    sets = find_image_sets([tmp_path], 2)
    model = ported(release_model(CONFIG), CONFIG)
    graph, parameters = nnx.split(model)
    validation = Validation(sets, 2, graph, make_mesh())
    scores = validation.scores(parameters)
    assert list(scores) == ["A", "B"]
    for image_set in sets:
        images = evaluate_images(image_set.pairs, 2, lambda lr: sj.upscale(model, lr))
        expected = Scores.mean([image.scores for image in images])
        assert scores[image_set.name].psnr == pytest.approx(expected.psnr, abs=1e-3)
        assert scores[image_set.name].ssim == pytest.approx(expected.ssim, abs=1e-4)
    example = validation.first_image(parameters)
    assert example.sr.shape == example.hr.shape == (40, 48, 3)
