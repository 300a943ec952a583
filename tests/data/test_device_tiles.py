"""If these fail, patches cut on the devices are not those of the host, or a set that does not fit is accepted."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seemore_jax import InputError
from seemore_jax.data import device_tiles
from seemore_jax.data.degradation import JpegDegradation
from seemore_jax.data.device_patches import cut_patches, training_draws
from seemore_jax.data.device_tiles import TilePlan, place_tiles, plan_tiles
from seemore_jax.data.pipeline import Batch
from seemore_jax.data.stored_pairs import StoredPair
from seemore_jax.training.step import make_mesh
from tests.data.test_pipeline import JPEG, SCALE, Images, assert_same, batches

PATCH = 8


def device_batches(count: int, first_step: int = 0, degradation: JpegDegradation | None = None) -> list[Batch]:
    source, mesh = Images(7), make_mesh()
    plan = plan_tiles(source, mesh, scale=SCALE, patch_size=PATCH)
    tiles = place_tiles(source, plan, mesh)
    draws = training_draws(plan, mesh, batch_size=4, seed=5, first_step=first_step, degradation=degradation)
    cut = jax.jit(cut_patches, static_argnames=("scale", "patch_size"))
    taken = [cut(tiles, jnp.asarray(rows), scale=SCALE, patch_size=PATCH) for rows in itertools.islice(draws, count)]
    draws.close()
    return [Batch(*map(np.asarray, pair)) for pair in taken]


@pytest.mark.parametrize("first_step", [0, 5])
def test_batches_are_those_of_the_host_pipeline(first_step: int) -> None:
    """The tiles have many sizes, some smaller than a patch, and the batches cover several epochs."""
    assert_same(device_batches(12, first_step), batches(12, first_step))


def test_degraded_batches_are_nearly_those_of_the_host_pipeline() -> None:
    """libjpeg computes in fixed point: in noise, more coefficients round to another step than in photographs."""
    mine, expected = device_batches(12, degradation=JPEG), batches(12, degradation=JPEG)
    for one, other in zip(mine, expected, strict=True):
        np.testing.assert_array_equal(one.hr, other.hr)
    difference = np.abs(np.stack([one.lr for one in mine]).astype(int) - np.stack([other.lr for other in expected]))
    assert np.mean(difference <= 2) >= 0.98


def test_many_tiles_are_sent_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_tiles, "_CHUNK", 3)
    assert_same(device_batches(3), batches(3))


def test_what_does_not_fit_is_refused_before_any_tile_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_tiles, "_free_memory", lambda: 10_000)
    with pytest.raises(InputError, match=r"needs .* GB on each of 1 devices for 7 tiles, but may take .* set it to"):
        plan_tiles(Images(7), make_mesh(), scale=SCALE, patch_size=PATCH)


def test_free_memory_is_plausible() -> None:
    assert 2**20 < device_tiles._free_memory() < 2**50


def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tiles would take more memory than the container has, and it would be killed without a message."""
    monkeypatch.setattr("seemore_jax.system.memory._left", lambda *_: 3 * 2**20 * jax.local_device_count())
    assert device_tiles._free_memory() == 3 * 2**20


def test_a_damaged_tile_is_refused() -> None:
    class Damaged(Images):
        def __getitem__(self, index: int) -> StoredPair:
            return StoredPair(lr=b"x", hr=b"x") if index == 3 else super().__getitem__(index)

    with pytest.raises(InputError, match="damaged"):
        plan_tiles(Damaged(7), make_mesh(), scale=SCALE, patch_size=PATCH)


@pytest.mark.parametrize("count", [4, 7, 10])
def test_shares_cover_all_tiles_once(count: int) -> None:
    plan = TilePlan([(8, 8)] * count, SCALE, PATCH, device_count=4, is_split=True)
    shares = [plan.share(device) for device in range(4)]
    assert sorted(itertools.chain.from_iterable(shares)) == list(range(count))
    assert max(map(len, shares)) == plan.shapes[0][0]


_SPLIT = """
import itertools
import jax, numpy as np
from seemore_jax.data import device_tiles
from seemore_jax.data.device_patches import cut_patches, training_draws
from seemore_jax.data.device_tiles import place_tiles, plan_tiles
from seemore_jax.training.step import SPLIT, make_mesh, to_devices
from tests.data.test_pipeline import Constants

COUNT, STEPS = 10, 24
source, mesh = Constants(COUNT), make_mesh()
whole = plan_tiles(source, mesh, scale=3, patch_size=8)
assert not whole.is_split and mesh.size == 4
device_tiles._free_memory = lambda: 2 * whole.bytes_per_device - 2
plan = plan_tiles(source, mesh, scale=3, patch_size=8)
assert plan.is_split and "split" in str(plan)
tiles = place_tiles(source, plan, mesh)
assert {shard.data.shape for shard in tiles.hr.addressable_shards} == {plan.shapes[1]}
cut = jax.jit(jax.shard_map(
    lambda tiles, draws: cut_patches(tiles, draws, scale=3, patch_size=8),
    mesh=mesh, in_specs=(plan.spec(mesh), SPLIT), out_specs=SPLIT,
))

def shown(first_step, steps):
    draws = training_draws(plan, mesh, batch_size=8, seed=0, first_step=first_step)
    pairs = [cut(tiles, to_devices(mesh, rows)) for rows in itertools.islice(draws, steps)]
    draws.close()
    for lr, hr in pairs:
        assert (np.asarray(hr)[:, 0, 0, 0] == np.asarray(lr)[:, 0, 0, 0]).all()
    return np.stack([np.asarray(lr)[:, 0, 0, 0] for lr, _ in pairs]).reshape(steps, 4, 2)

numbers = shown(0, STEPS)
for device in range(4):
    mine = numbers[:, device].ravel()
    share = list(plan.share(device))
    assert sorted(set(mine)) == share  # all tiles of its own share, and no other tile
    epochs = mine[: len(mine) // len(share) * len(share)].reshape(-1, len(share))
    assert (np.sort(epochs) == share).all()  # each tile once in each epoch
assert (shown(7, 3) == numbers[7:10]).all()  # continues where it stopped
"""


def test_split_over_devices_each_draws_all_of_its_own_share_and_nothing_else() -> None:
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", _SPLIT], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
