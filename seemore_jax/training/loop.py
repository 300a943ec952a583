"""Runs a training from its experiment to the final weights, and continues it after interruptions."""

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.data.preparation import prepare
from seemore_jax.network import SeemoRe
from seemore_jax.porting import load, save
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import AnyPath, atomic_write, local_copy
from seemore_jax.system.process_monitor import Heartbeat
from seemore_jax.system.processes import barrier
from seemore_jax.training.checkpoints import Checkpoints
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.feed import Feed, open_feed
from seemore_jax.training.interruption import StopRequest, stop_request
from seemore_jax.training.optimizer import learning_rate, make_optimizer
from seemore_jax.training.progress import Progress
from seemore_jax.training.records import Records, write_setup
from seemore_jax.training.step import (
    Metrics,
    TrainState,
    initial_state,
    make_mesh,
    make_train_step,
    replicated,
    to_devices,
)
from seemore_jax.training.validation import Validation


def train(experiment: Experiment, workdir: AnyPath, heartbeat: Heartbeat | None = None) -> int:
    """Trains from the newest checkpoint, or from step 0, until step `experiment.num_steps` or a signal.

    Writes into `workdir`: `checkpoints/`, `weights/step_*.safetensors` at each validation and
    `weights/final.safetensors` at the end, `tensorboard/`, `history.jsonl`, `curves.png`, `config.json` and
    `versions.json`.

    Args:
      experiment: what to train and how.
      workdir: the run's folder. All processes of a run call this function together, and all see this folder.
      heartbeat: announces each step of this process to the other processes; None in a run of one process.

    Returns:
      The exit status: 0 when all steps are done, 128 + the signal's number after a signal.

    Raises:
      InputError: the experiment, the dataset or the workdir cannot be used (found before anything is compiled); an
        image is damaged (found when it is read); or the loss is no longer finite (raised by all processes after the
        same step).
    """
    mesh = make_mesh()
    experiment.check_devices(mesh.size)
    validation_sets = [
        image_set.degraded(experiment.lr_degradation)
        for image_set in find_image_sets(experiment.validation, experiment.scale)
    ]
    _prepare_dataset(experiment)
    feed = open_feed(experiment, mesh)
    if jax.process_index() == 0:
        write_setup(workdir, experiment)

    optimizer = make_optimizer(experiment)
    graph, shapes = nnx.split(SeemoRe.abstract(experiment.network))
    with contextlib.ExitStack() as cleanup:
        checkpoints = Checkpoints(workdir / "checkpoints", experiment.keep_checkpoints)
        cleanup.callback(checkpoints.close)
        state = _restored_or_new_state(experiment, checkpoints, optimizer, shapes, mesh)
        step = make_train_step(
            graph,
            optimizer,
            mesh,
            accumulate=experiment.accumulate,
            ema_decay=experiment.ema_decay,
            fetch=feed.fetch,
            first_spec=feed.first_spec,
        )
        validation = Validation(validation_sets, experiment.scale, graph, mesh) if validation_sets else None
        journal = _Journal(experiment, workdir, graph, checkpoints, validation, int(state.step))
        cleanup.callback(journal.close)
        request = cleanup.enter_context(stop_request())
        journal.progress.say(feed.note)
        state = _run_steps(experiment, state, step, _Inputs(feed, mesh, request, int(state.step)), journal, heartbeat)
        return journal.finish(state, request)


def _prepare_dataset(experiment: Experiment) -> None:
    """Prepares the dataset from `experiment.sources`, if there are any. Process 0 does it; the others wait."""
    if experiment.sources:
        if jax.process_index() == 0:
            prepare(experiment.dataset, experiment.data_dir, scales=(experiment.scale,), sources=experiment.sources)
        barrier("dataset prepared")


def _restored_or_new_state(
    experiment: Experiment,
    checkpoints: Checkpoints,
    optimizer: optax.GradientTransformation,
    shapes: nnx.State,
    mesh: Mesh,
) -> TrainState:
    """Returns the state of the newest checkpoint; the initial state if there is no checkpoint."""

    def on_devices(parameters: nnx.State) -> TrainState:
        return initial_state(parameters, optimizer, average=experiment.has_average, mesh=mesh)

    state = checkpoints.restore_latest(jax.eval_shape(on_devices, shapes), replicated(mesh))
    return on_devices(initial_parameters(experiment)) if state is None else state


def initial_parameters(experiment: Experiment) -> nnx.State:
    """Returns the parameters with which a run starts.

    They are those of `experiment.init_from` (without the upsampler, if these weights are for another scale), or random
    ones with PyTorch's default initialisation.

    Raises:
      InputError: the weights of `init_from` cannot be read, or belong to another network.
    """
    expected = experiment.network
    if not experiment.init_from:
        return nnx.state(SeemoRe(expected, rngs=nnx.Rngs(experiment.seed)), nnx.Param)
    with local_copy(experiment.init_from) as path:
        start = load(path)
    found = {**start.config.to_dict(), "scale": expected.scale}
    differing = [field for field, value in expected.to_dict().items() if found[field] != value]
    if differing:
        raise InputError(
            f"init_from: {experiment.init_from} has {differing[0]}={found[differing[0]]}, "
            f"this experiment {expected.to_dict()[differing[0]]}"
        )
    if start.config.scale != expected.scale:
        small = dataclasses.replace(expected, num_layers=1)
        start.upsampler = SeemoRe(small, rngs=nnx.Rngs(experiment.seed)).upsampler
    return nnx.state(start, nnx.Param)


class _Inputs:
    """Yields the arguments of each step besides the state: the feed's inputs, and whether this process is to stop."""

    def __init__(self, feed: Feed, mesh: Mesh, request: StopRequest, first_step: int) -> None:
        self._feed: Iterator[tuple[Any, Array]] = feed.inputs(first_step)
        self._mesh, self._request = mesh, request

    def __next__(self) -> tuple[Any, Array, Array]:
        first, second = next(self._feed)
        stop = np.full(jax.local_device_count(), self._request.signal != 0, np.float32)
        return first, second, to_devices(self._mesh, stop)


def _run_steps(
    experiment: Experiment,
    state: TrainState,
    step: jax.stages.Wrapped,
    inputs: _Inputs,
    journal: "_Journal",
    heartbeat: Heartbeat | None,
) -> TrainState:
    """Runs steps until the last one, or until a process is asked to stop."""
    compiled = None
    done = int(state.step)
    while done < experiment.num_steps and not journal.progress.stop_requested:
        arguments = next(inputs)
        if heartbeat:
            heartbeat.begins(done + 1)
        if compiled is None:
            compiled = step.lower(state, *arguments).compile()
            barrier("compiled")
        state, metrics = compiled(state, *arguments)
        done += 1
        journal.after_step(done, state, metrics)
    return state


class _Journal:
    """Writes everything that a run leaves behind: progress, records, validations, checkpoints and weights.

    All processes have one and call its methods together; only the first one writes records and weights.

    Attributes:
      progress: the progress bar, and whether the run was asked to stop.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: AnyPath,
        graph: nnx.GraphDef[SeemoRe],
        checkpoints: Checkpoints,
        validation: Validation | None,
        first_step: int,
    ) -> None:
        self._experiment, self._weights, self._graph = experiment, workdir / "weights", graph
        self._checkpoints, self._validation = checkpoints, validation
        self._records = Records(workdir, first_step) if jax.process_index() == 0 else None
        self.progress = Progress(
            num_steps=experiment.num_steps,
            first_step=first_step,
            batch_size=experiment.batch_size,
            log_every=experiment.log_every,
            learning_rate=learning_rate(experiment),
            records=self._records,
        )
        self.progress.say(f"going on from step {first_step}" if first_step else "")

    def after_step(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Takes the metrics of a step; validates and saves the state after steps for which the experiment says so."""
        self.progress.add(step, metrics)
        validate = step == self._experiment.num_steps or step % self._experiment.validate_every == 0
        if not (validate or step % self._experiment.checkpoint_every == 0 or self.progress.stop_requested):
            return
        self.progress.settle()  # raises if the loss is not finite: such a state must not be saved
        with self.progress.pause():
            psnr = self._validate(step, state) if validate else None
            if validate:
                self._export(state, f"step_{step:08d}")
            self._checkpoints.save(state, psnr)
            if self._records:
                self._records.upload()

    def finish(self, state: TrainState, request: StopRequest) -> int:
        """Exports the final weights if all steps are done. Returns the exit status."""
        done = int(state.step)
        if done < self._experiment.num_steps:
            # All processes stop after the same step. A process without a signal of its own reports SIGTERM.
            number = request.signal or signal.SIGTERM
            self.progress.say(f"stopped by {signal.Signals(number).name} after step {done}; run again to go on")
            return 128 + number
        self._export(state, "final")
        return 0

    def close(self) -> None:
        """Ends the progress bar and completes the records."""
        self.progress.close()
        if self._records:
            self._records.close()

    def _validate(self, step: int, state: TrainState) -> float | None:
        """Scores the state on all sets. Returns the mean PSNR over the sets, by which the best checkpoint is kept."""
        if self._validation is None:
            return None
        scores = self._validation.scores(state.best_parameters)
        image = self._validation.first_image(state.best_parameters)
        if self._records:
            self._records.validation(step, scores, image)
        figures = ", ".join(f"{name} {s.psnr:.2f} dB / {s.ssim:.4f}" for name, s in scores.items())
        self.progress.say(f"step {step}: {figures}")
        return float(np.mean([s.psnr for s in scores.values()]))

    def _export(self, state: TrainState, name: str) -> None:
        """Writes weights that `load` reads; on the first process only."""
        if jax.process_index() == 0:
            with atomic_write(self._weights / f"{name}.safetensors") as temporary:
                save(nnx.merge(self._graph, state.best_parameters), temporary)
