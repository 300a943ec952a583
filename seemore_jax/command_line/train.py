"""Trains a SeemoRe; run again with the same workdir, it goes on where it stopped.

seemore-jax train --config=seemore_t_x4 --workdir=DIR [--config.FIELD=VALUE ...]

The config is the name of a published configuration, or the path of a file. In a checkout, `python train.py` is the
same.
"""

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from seemore_jax.command_line.scripts import process_flags, run_script
from seemore_jax.system.compilation_cache import use_compilation_cache
from seemore_jax.system.files import path_of
from seemore_jax.system.process_monitor import monitored
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.loop import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment: a name such as seemore_t_x4, or a file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, or gs://…; all hosts must see it.", required=True)
_join_processes = process_flags()
flags.mark_flag_as_required("config")


def main(arguments: Sequence[str] = sys.argv) -> None:
    """Runs the command, and exits with its status.

    Args:
      arguments: the name of the program, and the flags.
    """
    run_script(_train, arguments, sys.modules[__name__])


def _train() -> int:
    """Trains to the end, or until a signal."""
    use_compilation_cache()
    _join_processes()
    with monitored("start all processes again to go on from the last checkpoint") as heartbeat:
        return train(Experiment.of(_CONFIG.value), path_of(_WORKDIR.value), heartbeat)
