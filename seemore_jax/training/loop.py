"""A training run from its configuration to its final weights, through any number of interruptions."""

import contextlib
import dataclasses
import signal

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from seemore_jax.data.device_tiles import plan_tiles
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.data.pipeline import open_dataset
from seemore_jax.data.preparation import prepare
from seemore_jax.errors import InputError
from seemore_jax.experiment import check_training, network_config
from seemore_jax.files import AnyPath, local_copy, replacing
from seemore_jax.network import SeemoRe
from seemore_jax.porting import load, save
from seemore_jax.training.checkpoints import Checkpoints
from seemore_jax.training.distributed import meet
from seemore_jax.training.feed import open_feed
from seemore_jax.training.interruption import stop_request
from seemore_jax.training.optimizer import learning_rate, make_optimizer
from seemore_jax.training.progress import Progress
from seemore_jax.training.records import Records, write_setup
from seemore_jax.training.step import TrainState, initial_state, make_mesh, make_train_step, replicated, to_devices
from seemore_jax.training.validation import Validation
from seemore_jax.training.watch import Watch


def train(config: ConfigDict, workdir: AnyPath, watch: Watch | None = None) -> int:
    """Trains, or goes on training, until `config.num_steps` or a signal.

    Writes into `workdir`: `checkpoints/`, `weights/step_*.safetensors` at each validation and
    `weights/final.safetensors` at the end, `tensorboard/`, `history.jsonl`, `curves.png`, `config.json` and
    `versions.json`. All processes of a run call it together, with a workdir that all of them see; `watch` is told
    how far this one is.

    Returns:
      The exit status: 0 when all steps are done, 128 + the signal's number after a signal.

    Raises:
      InputError: the configuration, the data or the workdir cannot be used, found before anything is compiled; or the
        loss is no longer finite, on all processes after the same step.
    """
    # 1. Everything that can be wrong.
    check_training(config, jax.device_count())
    validation_sets = find_image_sets(config.validation, config.scale)
    _prepare_if_asked(config)
    source = open_dataset(config.dataset, config.data_dir, config.scale)
    mesh = make_mesh()
    plan = None
    if config.data_on_device:
        plan = plan_tiles(source, mesh, scale=config.scale, patch_size=config.patch_size)
    is_first = jax.process_index() == 0
    if is_first:
        write_setup(workdir, config)

    # 2. The network, and the state where the run goes on.
    optimizer = make_optimizer(config)
    graph, abstract = nnx.split(SeemoRe.abstract(network_config(config)))

    def on_devices(parameters: nnx.State) -> TrainState:
        return initial_state(parameters, optimizer, average=config.ema_decay > 0, mesh=mesh)

    with contextlib.ExitStack() as cleanup:
        checkpoints = Checkpoints(workdir / "checkpoints", config.keep_checkpoints)
        cleanup.callback(checkpoints.close)
        state = checkpoints.restore_latest(jax.eval_shape(on_devices, abstract), replicated(mesh))
        if state is None:
            state = on_devices(_first_parameters(config))
        done = int(state.step)

        # 3. What feeds it, advances it, and watches it.
        feed = open_feed(config, source, plan, mesh, done)
        step = None
        jitted_step = make_train_step(
            graph,
            optimizer,
            mesh,
            accumulate=config.accumulate,
            ema_decay=config.ema_decay,
            fetch=feed.fetch,
            first_spec=feed.first_spec,
        )
        validation = Validation(validation_sets, config.scale, graph, mesh) if validation_sets else None
        records = Records(workdir, done) if is_first else None
        if records:
            cleanup.callback(records.close)
        progress = Progress(
            num_steps=config.num_steps,
            first_step=done,
            batch_size=config.batch_size,
            log_every=config.log_every,
            learning_rate=learning_rate(config),
            records=records,
        )
        cleanup.callback(progress.close)
        request = cleanup.enter_context(stop_request())
        if done:
            progress.say(f"going on from step {done}")
        if plan:
            progress.say(str(plan))

        # 4. The loop.
        while done < config.num_steps and not progress.stop_requested:
            first, second = next(feed.inputs)
            if watch:
                watch.begins(done + 1)
            stop = np.full(jax.local_device_count(), request.signal != 0, np.float32)
            if step is None:
                step = jitted_step.lower(state, first, second, to_devices(mesh, stop)).compile()
                meet("compiled")
            state, metrics = step(state, first, second, to_devices(mesh, stop))
            done += 1
            progress.add(done, metrics)
            last = done == config.num_steps
            validate = last or done % config.validate_every == 0
            if validate or done % config.checkpoint_every == 0 or progress.stop_requested:
                progress.settle()  # a state whose loss is not finite must not be saved
                with progress.pause():
                    psnr = None
                    if validate:
                        psnr = _validate(validation, state, done, progress, records)
                        _export(graph, state, workdir / "weights" / f"step_{done:08d}.safetensors")
                    checkpoints.save(state, psnr)
                    if records:
                        records.upload()

        if done < config.num_steps:
            # All processes stop after the same step; those that got no signal themselves report the usual one.
            number = request.signal or signal.SIGTERM
            progress.say(f"stopped by {signal.Signals(number).name} after step {done}; run again to go on")
            return 128 + number
        _export(graph, state, workdir / "weights" / "final.safetensors")
        return 0


def _prepare_if_asked(config: ConfigDict) -> None:
    """Writes the dataset of an experiment that names its photographs itself; all processes wait for the first."""
    if config.sources:
        if jax.process_index() == 0:
            prepare(config.dataset, config.data_dir, scales=(config.scale,), sources=tuple(config.sources))
        meet("dataset prepared")


def _first_parameters(config: ConfigDict) -> nnx.State:
    """PyTorch's default initialisation, or `config.init_from`: all of it, or all but the upsampler of another scale.

    Raises:
      InputError: the weights of `init_from` cannot be read or are another network's.
    """
    expected = network_config(config)
    if not config.init_from:
        return nnx.state(SeemoRe(expected, rngs=nnx.Rngs(config.seed)), nnx.Param)
    with local_copy(config.init_from) as path:
        start = load(path)
    found = {**start.config.to_dict(), "scale": expected.scale}
    differing = [field for field, value in expected.to_dict().items() if found[field] != value]
    if differing:
        raise InputError(
            f"init_from: {config.init_from} has {differing[0]}={found[differing[0]]}, "
            f"this experiment {expected.to_dict()[differing[0]]}"
        )
    if start.config.scale != expected.scale:
        start.upsampler = SeemoRe(dataclasses.replace(expected, num_layers=1), rngs=nnx.Rngs(config.seed)).upsampler
    return nnx.state(start, nnx.Param)


def _validate(
    validation: Validation | None, state: TrainState, step: int, progress: Progress, records: Records | None
) -> float | None:
    """Scores the state on all sets; returns the mean PSNR over the sets, by which the best checkpoint is kept."""
    if validation is None:
        return None
    scores = validation.scores(state.best_parameters)
    example = validation.example(state.best_parameters)
    if records:
        records.validation(step, scores, example)
    figures = ", ".join(f"{name} {s.psnr:.2f} dB / {s.ssim:.4f}" for name, s in scores.items())
    progress.say(f"step {step}: {figures}")
    return float(np.mean([s.psnr for s in scores.values()]))


def _export(graph: nnx.GraphDef[SeemoRe], state: TrainState, path: AnyPath) -> None:
    """Writes weights that `load` reads; on the first process."""
    if jax.process_index() == 0:
        with replacing(path) as temporary:
            save(nnx.merge(graph, state.best_parameters), temporary)
