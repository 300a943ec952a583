"""Checkpoints of a training run: written in the background, restored exactly; damaged ones are skipped."""

import functools
import logging
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from seemore_jax.system.errors import InputError, one_line
from seemore_jax.system.files import AnyPath, on_disk, with_file_name
from seemore_jax.system.processes import barrier
from seemore_jax.training.step import TrainState

_LOG = logging.getLogger(__name__)

# If a checkpoint takes longer than this many seconds, a test file is written every so many seconds.
_PATIENCE = 5.0
_PROBE_BYTES = 2**20


class Checkpoints:
    """The checkpoints in a folder: the newest ones, and the best one by validation PSNR.

    All processes of a run call every method together.

    Args:
      folder: the folder, on disk or in an object store.
      keep: number of the newest checkpoints to keep.

    Raises:
      InputError: checkpoints cannot be written there.
    """

    def __init__(self, folder: AnyPath, keep: int) -> None:
        preservation = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(get_metric_fn=_psnr, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(preservation_policy=preservation, cleanup_tmp_directories=True)
        try:
            self._manager = ocp.CheckpointManager(folder.absolute() if on_disk(folder) else folder, options=options)
        except OSError as error:
            raise InputError(f"{folder}: checkpoints cannot be written here: {error.strerror or error}") from error

    def save(self, state: TrainState, psnr: float | None) -> None:
        """Starts to write the state. The state may be donated as soon as this method returns.

        Args:
          state: the state; its step is the checkpoint's number.
          psnr: validation PSNR in dB, by which the best checkpoint is kept; None without a validation.

        Raises:
          OSError: the checkpoint before this one could not be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        metrics = None if psnr is None else {"psnr": psnr}
        self._wait()
        try:
            self._manager.save(step, args=ocp.args.StandardSave(_storable(state)), metrics=metrics, force=True)
        except ValueError as error:  # TensorStore raises it when the disk is full
            raise OSError(f"{self._manager.directory}: {one_line(error)}") from error

    def restore_latest(self, like: TrainState, sharding: jax.sharding.Sharding) -> TrainState | None:
        """Restores the newest checkpoint that can be read; returns None if there are no checkpoints.

        Newer checkpoints that cannot be read are skipped with a warning. Once an older one has been read, they are
        removed: the run will write those steps again.

        Args:
          like: a state of the expected shapes.
          sharding: how to place the state on the devices.

        Raises:
          InputError: there are checkpoints, but none of them can be read.
        """
        fields = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(_storable, like))
        read = False
        # Process 0 reads and sends the state to the others: otherwise each might find a different checkpoint damaged.
        if jax.process_index() == 0:
            found = self._read_newest(fields)
            read, fields = found is not None, found or fields
        barrier("checkpoint read")
        read, fields = multihost_utils.broadcast_one_to_all((np.asarray(read, np.int32), fields))
        steps = sorted(self._manager.all_steps())
        if not read:
            if not steps:
                return None
            raise InputError(
                f"{self._manager.directory}: none of the checkpoints {steps} can be read; "
                "remove the folder to start from the beginning"
            )
        for step in steps:
            if step > fields["step"]:
                self._manager.delete(step)
        return jax.jit(_from_storable, out_shardings=sharding)(fields)

    def _read_newest(self, like: dict[str, Any]) -> dict[str, Any] | None:
        """Reads the newest readable checkpoint into NumPy arrays, in this process alone."""
        _ignore_reads_that_end_late()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="reading"
        )
        options = ocp.CheckpointManagerOptions(create=False, multiprocessing_options=alone)
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
        with ocp.CheckpointManager(self._manager.directory, options=options, item_handlers=handler) as reader:
            for step in sorted(reader.all_steps(), reverse=True):
                try:
                    return _read(reader, step, like)
                except Exception as error:  # Orbax and its storage raise nearly anything on damaged files.
                    _LOG.warning("checkpoint %d cannot be read and is passed over: %s", step, one_line(error))
        return None

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          OSError: the last checkpoint could not be written.
        """
        self._wait()
        self._manager.wait_until_finished()
        self._manager.close()

    def _wait(self) -> None:
        """Waits for the checkpoint that is being written.

        If the disk of one process is full, all processes wait for each other in Orbax for ten minutes. So a process
        that waits for long writes a test file, which raises if its disk is full.
        """
        probe = time.monotonic() + _PATIENCE
        while self._manager.is_saving_in_progress():
            if on_disk(self._manager.directory) and time.monotonic() > probe:
                with (
                    with_file_name(self._manager.directory),
                    tempfile.TemporaryFile(dir=self._manager.directory) as file,
                ):
                    file.write(bytes(_PROBE_BYTES))
                probe = time.monotonic() + _PATIENCE
            time.sleep(0.01)


@functools.cache  # once for each process
def _ignore_reads_that_end_late() -> None:
    """Silences the message that Python prints for each read that fails because Orbax has closed its event loop.

    Orbax closes the loop when one array cannot be read; hundreds of other reads then fail.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _psnr(metrics: Any) -> float:
    return float(metrics["psnr"])


def _read(reader: ocp.CheckpointManager, step: int, like: dict[str, Any]) -> dict[str, Any]:
    """Reads one checkpoint. Leaves out the random key that older versions stored and never used."""
    if "key" not in reader.metadata(step).item_metadata:
        return reader.restore(step, args=ocp.args.StandardRestore(like))
    fields = reader.restore(step, args=ocp.args.StandardRestore({**like, "key": np.zeros(2, np.uint32)}))
    return {name: fields[name] for name in like}


def _storable(state: TrainState) -> dict[str, Any]:
    """Returns the state as Orbax stores it, without an average that is None."""
    return {name: value for name, value in state._asdict().items() if value is not None}


def _from_storable(fields: dict[str, Any]) -> TrainState:
    return TrainState(**{"average": None, **fields})
