"""If these tests fail, results depend on the way of computation, or a lack of memory ends a run that could go on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seemore_jax.inference import runner
from seemore_jax.inference.callbacks import Callbacks
from seemore_jax.inference.runner import bucket, run
from seemore_jax.network import SeemoRe
from tests.inference.test_strips import VARIANTS, image_of, model_of

ROOT = Path(__file__).parents[2]
CONFIG = VARIANTS["T"]


def test_buckets_hold_their_sides_and_are_few() -> None:
    buckets = {side: bucket(side, 16) for side in range(1, 4097)}
    assert all(length >= side and length % 16 == 0 for side, length in buckets.items())
    assert all(length <= max(16, side + 15, side * 9 / 8 + 1) for side, length in buckets.items())
    assert len(set(buckets.values())) < 50


@pytest.mark.parametrize("name", ["T", "L", "plain"])
@pytest.mark.parametrize("shape", [(17, 30), (1, 5), (16, 47)])
def test_an_array_larger_than_the_image_changes_nothing(name: str, shape: tuple[int, int]) -> None:
    model = model_of(VARIANTS[name])
    batch = np.stack([image_of(*shape), image_of(*shape)[::-1]])
    expected, routing = model(jnp.asarray(batch / 255, jnp.float32), return_routing=True)
    sr, found = run(model, batch, dtype=np.float32)
    np.testing.assert_allclose(sr, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.experts, routing.experts)


def test_sizes_of_one_bucket_share_a_program() -> None:
    model = model_of(CONFIG)
    program: Any = runner._compiled_batch
    run(model, image_of(33, 33)[None])
    compiled = program._cache_size()
    for side in (34, 37, 40, 47):
        run(model, image_of(side, side)[None])
    assert program._cache_size() == compiled


class OutOfMemory:
    """Replacement of a device on which calls fail until the strips are short enough."""

    def __init__(self, function: Any, most_rows: int) -> None:
        self.function, self.most_rows = function, most_rows
        self.tried: list[int] = []

    def __call__(self, model: SeemoRe, image: np.ndarray, rows: int, **options: Any) -> Any:
        self.tried.append(rows)
        if rows > self.most_rows:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return self.function(model, image, rows, **options)


def test_out_of_memory_leads_to_shorter_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = model_of(CONFIG), image_of(50, 20)
    notes: list[str] = []
    expected, _ = run(model, image[None])
    device = OutOfMemory(runner.upscale_in_strips, 12)

    def no_whole(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(runner, "_run_whole", no_whole)
    monkeypatch.setattr(runner, "upscale_in_strips", device)
    sr, _ = run(model, image[None], callbacks=Callbacks(note=notes.append))
    assert device.tried == [50, 25, 12]
    assert [note.split(":")[0] for note in notes] == ["out of memory"] * 2
    assert np.abs(sr.astype(int) - expected).max() <= 1
    device.most_rows = 0
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        run(model, image[None], callbacks=Callbacks(note=notes.append))


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(runner, "_run_whole", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        run(model_of(CONFIG), image_of(20, 20)[None])


def test_maps_that_do_not_fit_go_to_a_file_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = model_of(CONFIG), image_of(50, 20)
    notes: list[str] = []
    expected, _ = run(model, image[None], strip_rows=16)
    monkeypatch.setattr(runner, "free_memory", lambda: 1000)
    sr, _ = run(model, image[None], strip_rows=16, callbacks=Callbacks(note=notes.append))
    np.testing.assert_array_equal(sr, expected)
    assert "feature maps go to a temporary file" in notes[0]


_SPLIT = """
import json
import jax, numpy as np
from seemore_jax.inference import runner
from tests.inference.test_strips import VARIANTS, image_of, model_of
runner._SPLIT_PIXELS = 0
model, image = model_of(VARIANTS["T"]), image_of(75, 37)
whole, routing = runner.run(model, image[None], strip_rows=0, dtype=np.float32)
runner._run_strips = None
split, found = runner.run(model, image[None], dtype=np.float32)
difference = float(np.abs(split - whole).max())
print(json.dumps([jax.local_device_count(), difference, (found.experts == routing.experts).all().item()]))
"""


@pytest.mark.thorough
def test_an_image_split_over_devices_is_the_same() -> None:
    """The number of rows is not divisible by the number of devices, so that the image is padded."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    process = subprocess.run(
        [sys.executable, "-c", _SPLIT], cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    assert process.returncode == 0, process.stderr
    devices, difference, same_experts = json.loads(process.stdout.splitlines()[-1])
    assert devices == 4
    assert difference < 2e-5
    assert same_experts
