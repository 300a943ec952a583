"""Traces the two programs that are compiled ahead of time: the training step, and inference."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seemore_jax.inference.runner import upscale_batch
from seemore_jax.network import SeemoRe
from seemore_jax.system.devices import compiling_for
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.optimizer import make_optimizer
from seemore_jax.training.step import initial_state, make_mesh, make_train_step

Traced = Any  # jax.stages.Traced


def trace_step(experiment: Experiment, devices: Sequence[jax.Device], batch_size: int) -> Traced:
    """Traces the training step of an experiment for TPUs or GPUs, the same step that `training.loop` runs.

    Args:
      experiment: the experiment. `batch_size` and `data_on_device` are not read: the batches come from the hosts.
      devices: the devices of a topology.
      batch_size: the number of patches on all devices together, a multiple of the number of devices.

    Returns:
      The traced step, a `jax.stages.Traced`.
    """
    mesh = make_mesh(devices)
    optimizer = make_optimizer(experiment)

    def state(parameters: nnx.State) -> Any:
        return initial_state(parameters, optimizer, average=experiment.has_average, mesh=mesh)

    def images(side: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, side, side, 3), jnp.uint8)

    with compiling_for(devices[0].platform, devices[0].device_kind):
        graph, parameters = nnx.split(SeemoRe.abstract(experiment.network))
        step = make_train_step(graph, optimizer, mesh, accumulate=experiment.accumulate, ema_decay=experiment.ema_decay)
        stop = jax.ShapeDtypeStruct((len(devices),), jnp.float32)
        lr, hr = images(experiment.patch_size), images(experiment.patch_size * experiment.scale)
        return step.trace(jax.eval_shape(state, parameters), lr, hr, stop)


def trace_inference(experiment: Experiment, device: jax.Device, height: int, width: int) -> Traced:
    """Traces the inference of one RGB image on one TPU chip or GPU, the same program that `upscale` runs.

    Args:
      experiment: the experiment with the network.
      device: a device of a topology.
      height: the height of the LR image in pixels.
      width: the width of the LR image in pixels.

    Returns:
      The traced program, a `jax.stages.Traced`.
    """
    sharding = jax.sharding.SingleDeviceSharding(device)
    with compiling_for(device.platform, device.device_kind):
        graph, parameters = nnx.split(SeemoRe.abstract(experiment.network))

        def upscale(parameters: nnx.State, images: jax.Array) -> jax.Array:
            return upscale_batch(graph, parameters, images)

        compiled = jax.jit(upscale, in_shardings=sharding, out_shardings=sharding)
        return compiled.trace(parameters, jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8))
