"""Trains a SeemoRe; run again with the same workdir, it goes on where it stopped.

python train.py --config=configs/seemore_t_x4.py --workdir=DIR [--config.FIELD=VALUE ...]
"""

import sys

from absl import flags
from ml_collections import config_flags

from seemore_jax.compilation_cache import use_compilation_cache
from seemore_jax.exit_status import run_script
from seemore_jax.files import path_of
from seemore_jax.training.distributed import join_processes
from seemore_jax.training.loop import train
from seemore_jax.training.progress import TrainingError
from seemore_jax.training.watch import watch_others

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/seemore_t_x4.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, or gs://…; all hosts must see it.", required=True)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster tells it.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run; with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is; with --coordinator.")
_CLUSTER = flags.DEFINE_bool("cluster", False, "Ask the cluster for them: needed on Cloud TPU VMs of several hosts.")
flags.mark_flag_as_required("config")


def main() -> int:
    """Trains to the end, or until a signal."""
    use_compilation_cache()
    join_processes(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _CLUSTER.value)
    watch = watch_others()
    try:
        status = train(_CONFIG.value, path_of(_WORKDIR.value), watch)
    except TrainingError as error:  # all processes raise it, at the same step
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except (Exception, KeyboardInterrupt) as error:
        if watch is None:
            raise
        watch.give_up(error)
    if watch:
        watch.close()
    return status


if __name__ == "__main__":
    run_script(main)
