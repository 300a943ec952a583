"""If these tests fail, an image in strips has seams or other experts than the whole image, or needs too much memory."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

import seemore_jax as sj
from seemore_jax.inference import feature_map, strips
from seemore_jax.inference.callbacks import Callbacks
from seemore_jax.inference.runner import run
from seemore_jax.inference.strips import upscale_in_strips
from tests.support.release import images, ported, release_model

TOLERANCE = 4e-6
SMALL = {"embedding_dim": 12, "num_layers": 2}
VARIANTS = {
    "T": sj.SeemoReConfig.variant("T", 2, **SMALL),
    "L": sj.SeemoReConfig.variant("L", 3, **SMALL),
    "no reduction, two experts": sj.SeemoReConfig.variant("T", 2, recursive=0, topk=2, **SMALL),
    "plain": sj.SeemoReConfig.variant("B", 2, implementation="plain", **SMALL),
}


def model_of(config: sj.SeemoReConfig) -> sj.SeemoRe:
    """Returns a network whose output depends strongly on its routers and contexts."""
    model = ported(release_model(config), config)
    for group in model.groups:
        group.rank_modulating.mixture_block.mixture.router.linear.kernel[...] *= 100
        group.rank_modulating.mixture_block.embed.kernel[...] *= 2
        group.spatial_modulating.enhancement.striped.column.kernel[...] *= 10
    model.upsampler.kernel[...] *= 0.1
    return model


def image_of(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Returns an image that is brighter at the bottom, so that the means of strips differ from that of the image."""
    image = images(1, height, width)[0] * np.linspace(0.2, 1, height)[:, None, None]
    return np.round(image * 255).astype(np.uint8)[..., :channels]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("height", "width", "rows"), [(75, 37, 20), (61, 50, 8), (64, 16, 64), (3, 90, 8)])
def test_strips_are_the_whole_image(name: str, height: int, width: int, rows: int) -> None:
    """The cases are odd sizes, strips shorter than a filter, a single strip, and sides that are padded."""
    model, image = model_of(VARIANTS[name]), image_of(height, width)
    whole, routing = run(model, image[None], dtype=np.float32, strip_rows=0)
    sr, routing_of_strips = upscale_in_strips(model, image, rows, dtype=np.float32)
    np.testing.assert_array_equal(routing_of_strips.experts, routing.experts)
    np.testing.assert_allclose(routing_of_strips.probabilities, routing.probabilities, atol=1e-5)
    np.testing.assert_allclose(sr, whole[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint16, 3)])
def test_integers_are_rounded_once(dtype: type, channels: int) -> None:
    model = model_of(VARIANTS["T"])
    image = image_of(40, 20, channels).astype(dtype) * dtype(np.iinfo(dtype).max // 255)
    whole, _ = run(model, image[None], strip_rows=0)
    sr, _ = upscale_in_strips(model, image, 16, dtype=dtype)
    assert sr.dtype == dtype
    assert sr.shape == (80, 40, channels)
    assert np.abs(sr.astype(int) - whole[0]).max() <= 1


def test_feature_maps_in_a_file_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, image = model_of(VARIANTS["T"]), image_of(50, 33)
    expected, _ = upscale_in_strips(model, image, 16)
    sr, _ = upscale_in_strips(model, image, 16, in_file=True)
    np.testing.assert_array_equal(sr, expected)
    assert not list(tmp_path.iterdir())


def test_no_room_for_the_file_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_map.os, "posix_fallocate", full)
    with pytest.raises(sj.InputError, match=r"no room for a feature map of .* GB .*TMPDIR"):
        upscale_in_strips(model_of(VARIANTS["T"]), image_of(20, 20), 16, in_file=True)


def test_progress_rises_to_the_end() -> None:
    shares: list[float] = []
    upscale_in_strips(model_of(VARIANTS["T"]), image_of(50, 20), 16, callbacks=Callbacks(progress=shares.append))
    assert shares == sorted(shares)
    assert len(shares) == 4 * 3
    assert shares[-1] == 1


def test_a_tie_of_the_router_is_reported() -> None:
    notes: list[str] = []
    model, callbacks = model_of(VARIANTS["T"]), Callbacks(note=notes.append)
    upscale_in_strips(model, image_of(20, 20), 16, callbacks=callbacks)
    assert not notes
    kernel = model.groups[1].rank_modulating.mixture_block.mixture.router.linear.kernel
    kernel[...] *= 0
    upscale_in_strips(model, image_of(20, 20), 16, callbacks=callbacks)
    (note,) = notes
    assert "layer 2: two experts are equally probable" in note


def test_a_shorter_halo_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerance of the test above is small enough to detect an error."""
    model, image = model_of(VARIANTS["T"]), image_of(61, 50)
    whole, _ = run(model, image[None], dtype=np.float32, strip_rows=0)
    monkeypatch.setattr(strips, "halo", lambda config: 8)
    sr, _ = upscale_in_strips(model, image, 8, dtype=np.float32)
    assert np.abs(sr - whole[0]).max() > TOLERANCE
