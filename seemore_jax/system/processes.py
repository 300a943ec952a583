"""The processes of a run: how they join, by environment, cluster or flags, and how they wait for one another."""

import faulthandler
import itertools
import os
from typing import Any

import jax

from seemore_jax.system.errors import InputError

# JAX aborts the other processes when one has been silent for so long. The process monitor comes first, and says which
# process is lost.
HEARTBEAT_TIMEOUT_SECONDS = 100

# How long a process waits for one that compiles, reads or prepares. The process monitor sees a lost one long before.
MEETING_TIMEOUT_SECONDS = 24 * 3600

_MEETINGS = itertools.count()


def join_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None, cluster: bool = False
) -> None:
    """Connects this process with the others of its run; does nothing for a run of one process.

    Args:
      coordinator: HOST:PORT of process 0. Without it, a TPU pod, SLURM or Kubernetes is recognised from its
        environment.
      num_processes: how many processes there are; with `coordinator`.
      process_id: which of them this is, from 0; with `coordinator`.
      cluster: there are others even if the environment does not say so. The hosts of a Cloud TPU VM slice, say, learn
        it from the metadata server, which is not asked otherwise: elsewhere it would take a while to find none.

    Raises:
      InputError: only some of the three are given, or they make no sense.
      ConnectionError: the others cannot be reached.
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
    """Returns when all processes of the run have come here; all call it in the same order.

    Before a collective that some may reach much later than others: on CPUs, collectives give up after 30 s.
    """
    if (client := coordination_client()) is not None:
        client.wait_at_barrier(f"seemore/{next(_MEETINGS)} {reason}", MEETING_TIMEOUT_SECONDS * 1000)


def coordination_client() -> Any:
    """This process's client of JAX's coordination service, for which JAX has no public name; None if it is alone."""
    from jax._src.distributed import global_state

    return global_state.client


def coordinator_address() -> str:
    """HOST:PORT of process 0, for which JAX has no public name either; of a run of several processes."""
    from jax._src.distributed import global_state

    return global_state.coordinator_address or ""


def _launched_by_a_cluster() -> bool:
    """Whether the environment is that of one process among several."""
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
    # JAX ends a process that lost another one by an abort. On an abort, the handler that absl switches on prints the
    # stacks of threads that still run, and may crash over it: then the status would be that of the crash.
    faulthandler.disable()
