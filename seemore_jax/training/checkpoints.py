"""Checkpoints of a training run: written while it goes on, restored exactly, damaged ones passed over."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from seemore_jax.errors import InputError
from seemore_jax.training.step import TrainState

_LOG = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in `folder`: the last `keep`, and the best by validation PSNR.

    All processes of a run call every method together.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        preservation = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(get_metric_fn=_psnr, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(preservation_policy=preservation, cleanup_tmp_directories=True)
        try:
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        except OSError as error:
            raise InputError(f"{folder}: checkpoints cannot be written here: {error.strerror or error}") from error

    def save(self, state: TrainState, psnr: float | None) -> None:
        """Starts writing the state, under its step; the state may be donated as soon as this returns."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        metrics = None if psnr is None else {"psnr": psnr}
        self._manager.save(step, args=ocp.args.StandardSave(_storable(state)), metrics=metrics, force=True)

    def restore_latest(self, like: TrainState, sharding: jax.sharding.Sharding) -> TrainState | None:
        """The newest state that can be read, of the shapes of `like`, laid out by `sharding`; None if there is none.

        Newer ones that cannot be read are passed over with a warning and, once an older one has been read,
        removed: the run will write those steps again.

        Raises:
          InputError: there are checkpoints, but none can be read.
        """
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(_storable, like),
        )
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._manager.restore(step, args=ocp.args.StandardRestore(target))
            except Exception as error:  # Orbax and its storage raise nearly anything on damaged files.
                damaged[step] = _one_line(error)
                _LOG.warning("checkpoint %d cannot be read and is passed over: %s", step, damaged[step])
                continue
            for unreadable in damaged:
                self._manager.delete(unreadable)
            return _from_storable(restored)
        if damaged:
            raise InputError(
                f"{self._manager.directory}: none of the checkpoints {sorted(damaged)} can be read "
                f"({next(iter(damaged.values()))}); remove the folder to start from the beginning"
            )
        return None

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _psnr(metrics: Any) -> float:
    return float(metrics["psnr"])


def _storable(state: TrainState) -> dict[str, Any]:
    """The state as Orbax stores it: a typed random key becomes its data, a missing average is left out."""
    fields = {**state._asdict(), "key": jax.random.key_data(state.key)}
    return {name: value for name, value in fields.items() if value is not None}


def _from_storable(fields: dict[str, Any]) -> TrainState:
    return TrainState(**{"average": None, **fields, "key": jax.random.wrap_key_data(fields["key"])})


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
