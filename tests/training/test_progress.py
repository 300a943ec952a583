"""If these fail, a run reports another speed than it had."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from seemore_jax.training import progress as progress_module
from seemore_jax.training.loss import LossTerms
from seemore_jax.training.progress import Progress
from seemore_jax.training.records import Records, read_history
from seemore_jax.training.step import Metrics

BATCH = 8


class Clock:
    """Stands for the module `time`; goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_pauses_are_left_out_of_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    records = Records(tmp_path, 0)
    progress = Progress(
        num_steps=4, first_step=0, batch_size=BATCH, log_every=2, learning_rate=lambda _: 1e-3, records=records
    )
    usage = jnp.asarray(np.ones((1, 1), np.float32))
    metrics = Metrics(LossTerms(jnp.asarray(1.0), jnp.asarray(1.0)), jnp.asarray(1.0), usage, jnp.asarray(0.0))
    for step in range(1, 5):
        clock.now += 0.5
        progress.add(step, metrics)
        if step in (1, 3):
            progress.settle()
            with progress.pause():  # a validation and a checkpoint
                clock.now += 60
    progress.settle()
    progress.close()
    records.close()
    rates = [entry["images_per_second"] for entry in read_history(tmp_path / "history.jsonl")]
    assert rates == [pytest.approx(2 * BATCH / 1.5), pytest.approx(2 * BATCH / 0.5)]
