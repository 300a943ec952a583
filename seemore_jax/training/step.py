"""The training state, and the step that advances it on every device at once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, UInt8

from seemore_jax.network import SeemoRe
from seemore_jax.training.loss import LossTerms, loss_terms

BATCH_AXIS = "data"
# A batch is split over its first axis: each device has its rows.
SPLIT = P(BATCH_AXIS)


class TrainState(NamedTuple):
    """The state of a run. With the same batches, the same state always follows from it.

    Attributes:
      step: number of steps done.
      parameters: parameters of the network, float32.
      average: exponential moving average of the parameters; None if it is off.
      optimizer: Adam's moments and step count.
    """

    step: Int[Array, ""]
    parameters: nnx.State
    average: nnx.State | None
    optimizer: Any

    @property
    def best_parameters(self) -> nnx.State:
        """The parameters to validate and to export: the average where there is one."""
        return self.parameters if self.average is None else self.average


class Metrics(NamedTuple):
    """The report of one step, averaged over the global batch.

    Attributes:
      loss: the terms of the loss.
      gradient_norm: global norm of the gradient before clipping.
      expert_usage: share of the images that chose each expert, for each layer.
      stop: positive if some process was asked to stop.
    """

    loss: LossTerms
    gradient_norm: Float[Array, ""]
    expert_usage: Float[Array, "groups num_experts"]
    stop: Float[Array, ""]


# Computes LR and HR patches from the step's two inputs, on each device.
Fetch = Callable[[Any, Any], tuple[UInt8[Array, "n p p 3"], UInt8[Array, "n sp sp 3"]]]


def as_they_are(lr: Any, hr: Any) -> tuple[Any, Any]:
    """Returns the patches unchanged: the `Fetch` of inputs that are patches already."""
    return lr, hr


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of one axis, over which the batch is split.

    Args:
      devices: its devices; None for all devices of all processes.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (BATCH_AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the state: a copy on each device."""
    return NamedSharding(mesh, P())


def split_over_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: each device has its rows."""
    return NamedSharding(mesh, SPLIT)


def to_devices(mesh: Mesh, rows: np.ndarray) -> Array:
    """Returns a global array, split over its first axis.

    Args:
      mesh: the devices.
      rows: the rows of this process's devices.
    """
    return jax.make_array_from_process_local_data(split_over_batch(mesh), rows)


def initial_state(
    parameters: nnx.State, optimizer: optax.GradientTransformation, *, average: bool, mesh: Mesh
) -> TrainState:
    """Returns the state before the first step, on all devices of the mesh.

    Args:
      parameters: parameters of the network, float32.
      optimizer: the optimizer.
      average: whether to keep a moving average of the parameters.
      mesh: the devices.
    """

    def make(parameters: nnx.State) -> TrainState:
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            parameters=parameters,
            # A copy, since one buffer cannot be donated twice.
            average=jax.tree.map(jnp.copy, parameters) if average else None,
            optimizer=optimizer.init(parameters),
        )

    return jax.jit(make, out_shardings=replicated(mesh))(parameters)


def make_train_step(
    graph: nnx.GraphDef[SeemoRe],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    fetch: Fetch = as_they_are,
    first_spec: P = SPLIT,
) -> jax.stages.Wrapped:
    """Returns the compiled step: (state, two inputs, stop requests) to (next state, metrics). The state is donated.

    Network and loss run on each device separately, inside `shard_map`: partitioned automatically, the FFT and
    the router's top-k would gather the whole batch on every device. One all-reduce then averages gradients, loss
    terms, expert usage and stop requests, packed into one vector.

    Args:
      graph: the network without its parameters.
      optimizer: applied to the mean gradient.
      mesh: the devices.
      accumulate: pieces into which each device's share of the batch is cut to save memory, computed in turn.
      ema_decay: decay of the moving average, if the state has one. The decay grows with the step t as
        (1 + t) / (10 + t), from 0.1 up to this value.
      fetch: computes (lr, hr) on each device from the step's two inputs, such as stored tiles and where to cut them.
      first_spec: how the first input is placed on the mesh; the second is split over the devices.
    """

    def mean_gradients(
        parameters: nnx.State, first: Any, second: Any, stop: Array
    ) -> tuple[nnx.State, tuple[LossTerms, Array], Array, Array]:
        lr, hr = fetch(first, second)
        gradients, reported = _accumulated_gradients(graph, parameters, lr, hr, accumulate)
        packed, unpack = ravel_pytree((gradients, reported, stop[0]))
        # Without the barrier, XLA takes the vector apart again where there is one device.
        packed = jax.lax.optimization_barrier(jax.lax.pmean(packed, BATCH_AXIS))
        count = sum(leaf.size for leaf in jax.tree.leaves(gradients))
        # The norm of the vector: with that of each tensor, XLA makes a kernel for each tensor that a GPU updates.
        return *unpack(packed), jnp.linalg.norm(packed[:count])

    on_each_device = jax.shard_map(
        mean_gradients, mesh=mesh, in_specs=(P(), first_spec, SPLIT, SPLIT), out_specs=P(), check_vma=False
    )

    def step(state: TrainState, first: Any, second: Any, stop: Array) -> tuple[TrainState, Metrics]:
        gradients, (loss, usage), stop, norm = on_each_device(state.parameters, first, second, stop)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        average = state.average
        if average is not None:
            # The average begins with the initial parameters, which are random, so their weight falls fast at first.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            average = optax.incremental_update(parameters, average, 1 - decay)
        next_state = TrainState(state.step + 1, parameters, average, optimizer_state)
        return next_state, Metrics(loss, norm, usage, stop)

    whole = replicated(mesh)
    rows = split_over_batch(mesh)
    shardings = (whole, NamedSharding(mesh, first_spec), rows, rows)
    return jax.jit(step, in_shardings=shardings, out_shardings=(whole, whole), donate_argnums=0)


def _accumulated_gradients(
    graph: nnx.GraphDef[SeemoRe], parameters: nnx.State, lr: Array, hr: Array, pieces: int
) -> tuple[nnx.State, tuple[LossTerms, Array]]:
    """Returns gradients and reports of one device's rows, averaged over equal pieces."""
    gradient = jax.grad(_loss, argnums=1, has_aux=True)
    if pieces == 1:
        return gradient(graph, parameters, lr, hr)
    cut = jax.tree.map(lambda rows: rows.reshape(pieces, -1, *rows.shape[1:]), (lr, hr))
    zero = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(gradient, graph, parameters, *jax.tree.map(lambda piece: piece[0], cut)),
    )

    def add(total: Any, piece: tuple[Array, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(graph, parameters, *piece)), None

    total, _ = jax.lax.scan(add, zero, cut)
    return jax.tree.map(lambda leaf: leaf / pieces, total)


def _loss(
    graph: nnx.GraphDef[SeemoRe], parameters: nnx.State, lr: UInt8[Array, "n p p 3"], hr: UInt8[Array, "n sp sp 3"]
) -> tuple[Array, tuple[LossTerms, Array]]:
    model = nnx.merge(graph, parameters)
    sr, routing = model(lr.astype(jnp.float32) / 255, return_routing=True)
    terms = loss_terms(sr, hr.astype(jnp.float32) / 255)
    chosen = jax.nn.one_hot(routing.experts, routing.probabilities.shape[-1])  # (n, groups, topk, num_experts)
    return terms.total, (terms, chosen.sum(axis=2).mean(axis=0))
