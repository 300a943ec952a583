"""Trains a SeemoRe; run again with the same workdir, it goes on where it stopped.

python train.py --config=configs/seemore_t_x4.py --workdir=DIR [--config.FIELD=VALUE ...]
"""

from absl import flags
from ml_collections import config_flags

from seemore_jax.command_line.scripts import process_flags, run_script
from seemore_jax.system.compilation_cache import use_compilation_cache
from seemore_jax.system.files import path_of
from seemore_jax.system.process_monitor import monitored
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.loop import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/seemore_t_x4.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, or gs://…; all hosts must see it.", required=True)
_join_processes = process_flags()
flags.mark_flag_as_required("config")


def main() -> int:
    """Trains to the end, or until a signal."""
    use_compilation_cache()
    _join_processes()
    with monitored("start all processes again to go on from the last checkpoint") as heartbeat:
        return train(Experiment.of(_CONFIG.value), path_of(_WORKDIR.value), heartbeat)


if __name__ == "__main__":
    run_script(main)
