"""If these fail, the bundled weights do not match their cards, or give other results in PyTorch."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import seemore.module
import torch

import seemore_jax as sj
from seemore_jax.data.degradation import FixedDegradation
from seemore_jax.data.image_sets import ImageSet, find_image_sets
from seemore_jax.evaluation.benchmark import Scores, bicubic_upscaler, evaluate_images
from seemore_jax.inference.model_choice import choose_by_quality
from seemore_jax.network.config import SCALES
from seemore_jax.porting.bundled import BUNDLED, EARLIER
from tests.support.release import to_nchw

# The number of images of Set5 that are tested; SEEMORE_IMAGES=5 tests all.
IMAGES = int(os.environ.get("SEEMORE_IMAGES", "1"))


@pytest.mark.parametrize(
    ("name", "scale"), [*((f"T-x{scale}", scale) for scale in SCALES), ("T-x2-jpeg", 2), ("T-x4-jpeg", 4)]
)
def test_there_are_weights_with_a_card(name: str, scale: int) -> None:
    file = BUNDLED / f"{name}.safetensors"
    assert file.stat().st_size < 1_000_000
    assert hashlib.sha256(file.read_bytes()).hexdigest() in file.with_suffix(".md").read_text()
    assert sj.load(name).config == sj.SeemoReConfig.variant("T", scale)


def test_replaced_weights_are_loaded_by_their_digest() -> None:
    for file in sorted((BUNDLED / EARLIER).glob("*.safetensors")):
        name, _, digest = file.stem.rpartition("-")
        assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(digest)
        assert sj.load(file.stem).config == sj.load(name).config
    assert sorted((BUNDLED / EARLIER).glob("T-x4-*.safetensors"))


@pytest.mark.parametrize("scale", [2, 4])
def test_the_file_chooses_the_better_weights_at_each_quality(scale: int, kodak: Path) -> None:
    """The choice may lose at most 0.05 dB to the better weights, and nothing to bicubic interpolation."""
    pairs = find_image_sets([kodak], scale)[0].pairs[::6]
    clean, robust = (sj.load(f"T-x{scale}{suffix}") for suffix in ("", "-jpeg"))
    for quality in (None, 95, 85, 75, 50, 30):
        degraded = ImageSet("kodak", tuple(pairs)).degraded(FixedDegradation(quality)).pairs
        scores = {
            name: Scores.mean([image.scores for image in evaluate_images(degraded, scale, upscaler)]).psnr
            for name, upscaler in {
                f"T-x{scale}": lambda lr: sj.upscale(clean, lr),
                f"T-x{scale}-jpeg": lambda lr: sj.upscale(robust, lr),
                "bicubic": bicubic_upscaler(scale),
            }.items()
        }
        chosen = scores[choose_by_quality(quality, scale).model]
        assert chosen >= max(scores.values()) - 0.05, (quality, scores)
        assert chosen >= scores["bicubic"], (quality, scores)


def test_the_largest_scale_is_the_default() -> None:
    assert sj.load().config.scale == max(SCALES)


@pytest.mark.parametrize("scale", SCALES)
def test_figures_are_those_of_the_exported_weights_in_pytorch(scale: int, benchmark_data: Path, tmp_path: Path) -> None:
    model = sj.load(f"T-x{scale}")
    sj.save(model, tmp_path / "exported.pth")
    network = seemore.module.SeemoRe(**model.config.to_dict())
    network.load_state_dict(torch.load(tmp_path / "exported.pth", weights_only=True)["params"], strict=True)

    def in_pytorch(lr: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            sr = network.eval()(to_nchw(lr[None].astype(np.float32) / 255))
        return np.clip(np.rint(255 * sr[0].permute(1, 2, 0).numpy()), 0, 255).astype(np.uint8)

    (set5,) = find_image_sets([benchmark_data / "Set5"], scale)
    pairs = set5.pairs[-IMAGES:]
    ours, theirs, bicubic = (
        Scores.mean([image.scores for image in evaluate_images(pairs, scale, upscaler)])
        for upscaler in (lambda lr: sj.upscale(model, lr), in_pytorch, bicubic_upscaler(scale))
    )
    print(f"×{scale}: {ours}, in PyTorch {theirs}")
    assert ours.psnr == pytest.approx(theirs.psnr, abs=0.01)
    assert ours.psnr > bicubic.psnr + 1.5
    if len(pairs) == 5:
        card = (BUNDLED / f"T-x{scale}.md").read_text()
        assert f"{ours.psnr:.2f} / {ours.ssim:.4f}" in card
