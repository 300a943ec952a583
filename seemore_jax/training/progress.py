"""The progress of a run: its metrics step by step, requests to stop, rates, and the progress bar."""

import contextlib
import math
import time
from collections.abc import Iterator

import optax
from tqdm import tqdm

from seemore_jax.system.errors import InputError
from seemore_jax.training.records import Records
from seemore_jax.training.step import Metrics


class Progress:
    """The progress of a run. It reads the metrics of a step while the next step is computed: devices never wait.

    Attributes:
      stop_requested: whether some process was asked to stop before the last step whose metrics were read.

    Args:
      num_steps: number of steps of the whole run.
      first_step: the step after which the run continues.
      batch_size: images in each step, over all processes.
      log_every: steps between two records.
      learning_rate: the rate as a function of the step.
      records: the records to write to; None on all processes but the first, which also have no progress bar.
    """

    def __init__(
        self,
        *,
        num_steps: int,
        first_step: int,
        batch_size: int,
        log_every: int,
        learning_rate: optax.Schedule,
        records: Records | None,
    ) -> None:
        self.stop_requested = False
        self._batch_size = batch_size
        self._log_every = log_every
        self._learning_rate = learning_rate
        self._records = records
        self._pending: tuple[int, Metrics] | None = None
        self._logged = first_step, time.monotonic()
        self._bar = tqdm(total=num_steps, initial=first_step, unit="step", desc="training", disable=records is None)

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step.

        Args:
          step: number of the step, from 1.
          metrics: what the step reports; the device may still be computing it.
        """
        self.settle()
        self._pending = step, metrics

    def settle(self) -> None:
        """Waits for the metrics that were added last, and reads them.

        Raises:
          InputError: the loss is not finite. It would not be finite again with this configuration.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        loss = float(metrics.loss.total)
        if not math.isfinite(loss):
            raise InputError(
                f"step {step}: the loss is {loss}; the last checkpoint is from before it. "
                "Lower learning_rate, or set gradient_clip"
            )
        self.stop_requested = float(metrics.stop) > 0
        self._bar.update()
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        if self._records and step % self._log_every == 0:
            self._log(self._records, step, metrics)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves the time of the block, such as a validation or a checkpoint, out of the rate of images."""
        begin = time.monotonic()
        try:
            yield
        finally:
            step, then = self._logged
            self._logged = step, then + time.monotonic() - begin

    def say(self, line: str) -> None:
        """Prints a line above the bar, on the first process; does nothing for an empty line."""
        if self._records and line:
            self._bar.write(line)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def _log(self, records: Records, step: int, metrics: Metrics) -> None:
        (since, then), now = self._logged, time.monotonic()
        images_per_second = (step - since) * self._batch_size / (now - then)
        self._logged = step, now
        self._bar.set_postfix(loss=f"{float(metrics.loss.total):.4f}", images_s=f"{images_per_second:.1f}")
        records.training(step, metrics, float(self._learning_rate(step - 1)), images_per_second)
