"""Trains a SeemoRe; run again with the same workdir, it goes on where it stopped.

python train.py --config=configs/seemore_t_x4.py --workdir=DIR [--config.FIELD=VALUE ...]
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from seemore_jax.errors import InputError
from seemore_jax.training.distributed import join_processes
from seemore_jax.training.loop import train
from seemore_jax.training.progress import TrainingError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/seemore_t_x4.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; all hosts must see it.", required=True)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where no cluster tells it.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run; with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is; with --coordinator.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    # Orbax and JAX report each of their steps.
    logging.set_verbosity(logging.WARNING)
    try:
        join_processes(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        status = train(_CONFIG.value, Path(_WORKDIR.value))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    app.run(main)
