"""Joining the processes of a run: on TPU pods, SLURM and Kubernetes from the environment, elsewhere from flags."""

import os

import jax

from seemore_jax.errors import InputError

# How long a process may be silent before the others give up on it. The default is 100 s.
HEARTBEAT_TIMEOUT_SECONDS = 20


def join_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects this process with the others of its run; does nothing for a run of one process.

    Args:
      coordinator: HOST:PORT of process 0. Without it, a TPU pod, SLURM or Kubernetes is recognised from its
        environment.
      num_processes: how many processes there are; with `coordinator`.
      process_id: which of them this is, from 0; with `coordinator`.

    Raises:
      InputError: only some of the three are given, they make no sense, or the others cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    if all(value is None for value in given):
        if _launched_by_a_cluster():
            _initialize()
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise InputError("give --coordinator, --num_processes and --process_id together")
    if not 0 <= process_id < num_processes:
        raise InputError(f"--process_id must be in 0 … {num_processes - 1}, not {process_id}")
    if num_processes > 1:
        _initialize(coordinator_address=coordinator, num_processes=num_processes, process_id=process_id)


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
        raise InputError(f"cannot join the other processes: {' '.join(str(error).split())[:200]}") from error
