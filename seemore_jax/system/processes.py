"""The processes of a run: how they connect, and how they wait for one another."""

import faulthandler
import itertools
import json
import os
from typing import Any

import jax

from seemore_jax.system.errors import InputError

# JAX aborts the other processes when one has been silent for so long. The process monitor comes first, and says which
# process is lost.
HEARTBEAT_TIMEOUT_SECONDS = 100

# How long a process waits for one that compiles, reads or prepares. The process monitor sees a lost one long before.
BARRIER_TIMEOUT_SECONDS = 24 * 3600

_BARRIERS = itertools.count()
_AGREEMENTS = itertools.count()


def join_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None, cluster: bool = False
) -> None:
    """Connects this process with the others of its run. Does nothing for a run of one process.

    Args:
      coordinator: HOST:PORT of process 0. Without it, a TPU pod, SLURM or Kubernetes is recognised from its
        environment.
      num_processes: number of processes; with `coordinator`.
      process_id: number of this process, from 0; with `coordinator`.
      cluster: ask the cluster even if the environment does not show that there are other processes. The hosts of a
        Cloud TPU VM slice learn about each other from the metadata server; elsewhere, asking it would take a while.

    Raises:
      InputError: only some of the first three arguments are given, or `process_id` is out of range.
      ConnectionError: the other processes cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    if all(value is None for value in given):
        if cluster or _launched_by_a_cluster():
            _initialize()
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise InputError("give --coordinator, --num_processes and --process_id together")
    if not 0 <= process_id < num_processes:
        raise InputError(f"--process_id must be in 0 … {num_processes - 1}, not {process_id}")
    if num_processes > 1:
        _initialize(coordinator_address=coordinator, num_processes=num_processes, process_id=process_id)


def barrier(reason: str) -> None:
    """Waits until all processes of the run have called it. They must call their barriers in the same order.

    It is needed before a collective that some processes may reach much later than others: on CPUs, collectives give up
    after 30 s.

    Args:
      reason: what the processes wait for, for error messages.
    """
    if (client := coordination_client()) is not None:
        client.wait_at_barrier(f"seemore/{next(_BARRIERS)} {reason}", BARRIER_TIMEOUT_SECONDS * 1000)


def is_first_process() -> bool:
    """Returns whether this is process 0, which speaks for all processes of a run."""
    return jax.process_index() == 0


def from_first_process(value: Any) -> Any:
    """Returns the value of process 0 on all processes. All of them call this function together.

    Args:
      value: a value in types of JSON; only that of process 0 matters.
    """
    client = coordination_client()
    if client is None:
        return value
    key = f"seemore/agreements/{next(_AGREEMENTS)}"
    if jax.process_index() == 0:
        client.key_value_set(key, json.dumps(value))
    return json.loads(client.blocking_key_value_get(key, BARRIER_TIMEOUT_SECONDS * 1000))


def coordination_client() -> Any:
    """Returns this process's client of JAX's coordination service, which has no public name; None if it is alone."""
    from jax._src.distributed import global_state

    return global_state.client


def coordinator_address() -> str:
    """Returns HOST:PORT of process 0 in a run of several processes. JAX has no public name for it."""
    from jax._src.distributed import global_state

    return global_state.coordinator_address or ""


def _launched_by_a_cluster() -> bool:
    """Returns whether the environment is that of one process among several."""
    several_tpu_hosts = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    several_slurm_tasks = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    kubernetes_index = "JOB_COMPLETION_INDEX" in os.environ and "JAX_COORDINATOR_ADDRESS" in os.environ
    return several_tpu_hosts or several_slurm_tasks or kubernetes_index


def _initialize(**arguments: object) -> None:
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS, **arguments)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        kind = InputError if isinstance(error, ValueError) else ConnectionError
        raise kind(f"cannot join the other processes: {' '.join(str(error).split())[:200]}") from error
    # JAX aborts a process that has lost another one. The handler that absl installs for aborts prints the stacks of
    # running threads, and may crash while it does: the exit status would then be that of the crash.
    faulthandler.disable()
