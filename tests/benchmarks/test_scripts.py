"""If these fail, a benchmark does not run, or it compares computations of different functions."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

import seemore_jax as sj
from benchmarks import inference, peers, precision, scaling, training, transformations
from benchmarks.harness.networks import Program
from benchmarks.harness.options import image_size

TINY = sj.SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1)


def options(**fields: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"rounds": 1, "dtype": "float32", "implementation": ["auto"], **fields})


@pytest.mark.parametrize("placement", ["host", "device"])
def test_inference(placement: str, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = options(size=(24, 16), peers=["eager"], placement=placement, implementation=["auto", "plain"])
    result = inference.measure(TINY, chosen)
    assert list(result["seconds"]) == ["seemore-jax (auto)", "seemore-jax (plain)", "PyTorch eager"]
    assert result["size"] == [24, 16]
    assert result["largest_difference"] <= 1
    assert result["fastest_peer"] == "PyTorch eager"
    assert "| seemore-jax (plain) |" in capsys.readouterr().out


@pytest.mark.thorough
def test_transformations(capsys: pytest.CaptureFixture[str]) -> None:
    result = transformations.measure(sj.SeemoRe(TINY, rngs=nnx.Rngs(0)), images=2, size=16, rounds=1)
    assert {"a batch", "vmap over images", "gradients of each example"} <= result["seconds"].keys()
    assert "| vmap over images" in capsys.readouterr().out


def test_sizes() -> None:
    assert image_size("320x180") == (320, 180)
    for wrong in ("320", "320x", "15x16", "axb"):
        with pytest.raises(argparse.ArgumentTypeError):
            image_size(wrong)


def test_ideal_traffic_grows_with_pixels_and_bytes() -> None:
    config = sj.SeemoReConfig.variant("T", 4)
    once = inference.ideal_traffic(config, 1000, 2)
    assert once == (13 * 6 + 3) * 36 * 1000 * 2 + 3 * 1000 * 17
    assert inference.ideal_traffic(config, 2000, 2) == 2 * once


@pytest.mark.thorough
def test_training_has_the_same_loss_in_both_frameworks() -> None:
    chosen = options(batch_size=2, patch_size=16, rematerialize=True, peers=["contiguous", "channels_last"])
    result = training.measure(TINY, chosen)
    assert len(result["first_losses"]) == 4
    assert result["relative_difference_of_first_losses"] <= training.BOUNDS["float32"]
    assert result["temporary_bytes"].keys() == {"seemore-jax (auto)", "seemore-jax (auto, rematerialized)"}


@pytest.mark.thorough
def test_training_steps_are_the_same_in_both_frameworks() -> None:
    release = peers.release_network(TINY)
    batch = training.random_batch(2, 16, 2)
    mine, _ = training.our_step(peers.ported(release, TINY), batch)
    theirs = training.torch_step(release, batch, "contiguous", "float32")
    losses = np.array([[mine(), theirs()] for _ in range(4)])
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-4)
    assert losses[-1, 0] < losses[0, 0]


@pytest.mark.thorough
@pytest.mark.usefixtures("grouped_convolutions")
def test_precision(capsys: pytest.CaptureFixture[str]) -> None:
    model = sj.SeemoRe(TINY, rngs=nnx.Rngs(0))
    chosen = options(size=(24, 16), weights=None, batch_size=2, patch_size=16)
    figures = precision.inference(model, chosen)
    assert figures["float32"]["largest_difference"] == 0
    assert 0 < figures["bfloat16"]["largest_difference"] < 2e-2
    steps = precision.training(model, chosen)
    assert steps["float32, rematerialized"]["gradient_difference"] < 1e-5
    assert 1e-5 < steps["bfloat16"]["gradient_difference"] < 0.2
    assert "| bfloat16, rematerialized |" in capsys.readouterr().out


def test_precision_with_weights(benchmark_data: Path) -> None:
    model = sj.SeemoRe(TINY, rngs=nnx.Rngs(0))
    figures = [
        precision.set_psnr(model, compute_dtype=dtype, folder=benchmark_data / "Set5", limit=1)
        for dtype in ("float32", "bfloat16")
    ]
    assert all(map(math.isfinite, figures))
    assert figures[0] == pytest.approx(figures[1], abs=0.1)


def test_scaling_fits_power_laws(tmp_path: Path) -> None:
    growth = scaling.measure(
        "pixels", (16, 64, 256), lambda setting, _: Program(lambda: None, 10 * setting.side**3), "auto", rounds=1
    )
    assert growth.memory_exponent == pytest.approx(1.5)
    scaling.plot({"pixels": growth}).savefig(tmp_path / "plot.png")


def test_scaling_of_both_programs() -> None:
    small = scaling.Setting(pixels=256, groups=1, channels=8)
    for compile_program in (scaling.compile_inference, scaling.compile_training):
        program = compile_program(small, "auto")
        program.run()
        assert program.bytes > 0
