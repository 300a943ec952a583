"""If these fail, the processes of a run go on from different checkpoints."""

import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from seemore_jax.training.checkpoints import Checkpoints
from seemore_jax.training.step import TrainState, make_mesh, replicated
from tests.support.training_runs import Process, damage, finish, free_address

STEPS = (3, 6, 9)


def state(step: int) -> TrainState:
    parameters: Any = {"weight": jnp.arange(5.0) * step}
    return TrainState(jnp.int32(step), parameters, average=None, optimizer=())


def restored(folder: Path) -> TrainState | None:
    checkpoints = Checkpoints(folder, keep=3)
    found = checkpoints.restore_latest(state(0), replicated(make_mesh()))
    checkpoints.close()
    return found


def write(folder: Path) -> None:
    checkpoints = Checkpoints(folder, keep=3)
    for step in STEPS:
        checkpoints.save(state(step), psnr=None)
    checkpoints.close()


_PROCESS = """
import sys
from pathlib import Path
from seemore_jax.system.processes import join_processes
join_processes(sys.argv[1], 2, int(sys.argv[2]))
from tests.training.test_checkpoints import restored
for folder in sys.argv[3:]:
    found = restored(Path(folder))
    print("restored", found.step, found.parameters["weight"].addressable_data(0))
"""


def test_what_was_saved_is_restored_bit_for_bit(tmp_path: Path) -> None:
    write(tmp_path)
    found = restored(tmp_path)
    assert found is not None
    for array, expected in zip(jax.tree.leaves(found), jax.tree.leaves(state(STEPS[-1])), strict=True):
        assert array.dtype == expected.dtype
        assert (array == expected).all()
    assert restored(tmp_path / "nothing") is None


def test_checkpoints_of_older_versions_are_restored_exactly(tmp_path: Path) -> None:
    """They have a random key, which no step ever used."""
    saved = state(7)
    fields = {"step": saved.step, "parameters": saved.parameters, "optimizer": saved.optimizer}
    with ocp.CheckpointManager(tmp_path.absolute()) as manager:
        manager.save(7, args=ocp.args.StandardSave({**fields, "key": jax.random.key_data(jax.random.key(7))}))
    found = restored(tmp_path)
    assert found is not None
    assert found.average is None
    for array, expected in zip(jax.tree.leaves(found), jax.tree.leaves(saved), strict=True):
        assert array.dtype == expected.dtype
        assert (array == expected).all()


@pytest.mark.thorough
def test_all_processes_restore_the_same_checkpoint(tmp_path: Path) -> None:
    """Each process has a folder of its own here, so that only one of them finds its newest checkpoint damaged."""
    write(tmp_path / "whole")
    for case in ("first_damaged", "second_damaged"):
        for process in ("0", "1"):
            shutil.copytree(tmp_path / "whole", tmp_path / case / process)
    damage(tmp_path / "first_damaged" / "0", STEPS[-1])
    damage(tmp_path / "second_damaged" / "1", STEPS[-1])
    coordinator = free_address()
    running = [
        Process(
            [sys.executable, "-c", _PROCESS, coordinator, process]
            + [str(tmp_path / case / process) for case in ("first_damaged", "second_damaged")]
        )
        for process in ("0", "1")
    ]
    expected = [f"restored {step} {np.arange(5.0) * step}" for step in STEPS[-2:]]
    for status, output in finish(*running, timeout=120):
        assert status == 0, output
        assert [line for line in output.splitlines() if line.startswith("restored")] == expected
