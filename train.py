"""Trains a SeemoRe; run again with the same workdir, it goes on where it stopped.

python train.py --config=configs/seemore_t_x4.py --workdir=DIR [--config.FIELD=VALUE ...]
"""

import os
import sys
import traceback
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from seemore_jax.errors import InputError
from seemore_jax.exit_status import run_script
from seemore_jax.training.distributed import join_processes
from seemore_jax.training.loop import train
from seemore_jax.training.progress import TrainingError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/seemore_t_x4.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; all hosts must see it.", required=True)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster tells it.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run; with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is; with --coordinator.")
flags.mark_flag_as_required("config")


def main() -> int:
    """Trains to the end, or until a signal."""
    join_processes(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    try:
        return train(_CONFIG.value, Path(_WORKDIR.value))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if jax.process_count() == 1 or isinstance(error, InputError | OSError):
            raise
        # A lost process shows as whatever the next collective raises: the traceback is for the other cases.
        traceback.print_exc()
        reason = " ".join(str(error).split())[:200]
        print(
            f"error: this process cannot go on, perhaps because another one of the run is lost ({reason}); "
            "start all of them again to go on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # an orderly exit would wait for the lost process


if __name__ == "__main__":
    run_script(main)
