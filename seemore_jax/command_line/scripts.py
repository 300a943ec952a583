"""How the commands `train` and `evaluate` run: flags by absl, wrong ones in one line, processes that join."""

import functools
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from absl import app, flags, logging

from seemore_jax.configs import config_file
from seemore_jax.system.errors import InputError
from seemore_jax.system.exit_status import REPEATS, exit_status
from seemore_jax.system.processes import join_processes
from seemore_jax.training.experiment import configuration_error, unknown_field


def run_script(command: Callable[[], int | None], arguments: Sequence[str], module: ModuleType) -> None:
    """Parses flags by absl, runs a command, and exits with its status.

    A wrong flag or configuration gives one line and status 2, like every other wrong input. Messages of libraries below
    the level of a warning are not printed.

    Args:
      command: returns an exit status, or None for 0.
      arguments: the name of the program, and its flags.
      module: the module that defines the flags. `--help` prints its documentation.
    """
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX report each of their steps
    parse = functools.partial(_parse_flags, module=module)
    app.run(lambda _: sys.exit(exit_status(command)), argv=list(arguments), flags_parser=parse)


def process_flags() -> Callable[[], None]:
    """Defines the flags by which the processes of a run join. Returns a function that joins them."""
    coordinator = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if there is no cluster to ask.")
    num_processes = flags.DEFINE_integer("num_processes", None, "Number of processes; with --coordinator.")
    process_id = flags.DEFINE_integer("process_id", None, "Number of this process, from 0; with --coordinator.")
    cluster = flags.DEFINE_bool("cluster", False, "Ask the cluster; needed on Cloud TPU VMs of several hosts.")
    return lambda: join_processes(coordinator.value, num_processes.value, process_id.value, cluster.value)


def _parse_flags(arguments: Sequence[str], module: ModuleType) -> Any:
    if {"--help", "-h"}.intersection(arguments):
        known = sys.modules[__name__], module
        print(module.__doc__, *(flags.FLAGS.module_help(each) for each in known), sep="\n")
        sys.exit(0)
    arguments = [*map(_with_config_file, arguments)]
    try:
        left = flags.FLAGS(arguments)
        if len(left) > 1:
            raise flags.Error(f"unexpected argument {left[1]!r}")
    except Exception as error:  # a configuration file is a program, and can fail in any way
        print(f"error: {_unknown_field(arguments) or configuration_error(error)}", file=sys.stderr)
        sys.exit(REPEATS)
    return left


def _with_config_file(argument: str) -> str:
    """Replaces the name in `--config=NAME` by the path of the configuration; returns other arguments unchanged."""
    flag, equals, name = argument.partition("=")
    return f"{flag}={config_file(name)}" if equals and flag.lstrip("-") == "config" else argument


def _unknown_field(arguments: Sequence[str]) -> str | None:
    """Returns a line about a `--config.FIELD` that the experiment does not have; None if there is none."""
    files = [argument.partition("=")[2] for argument in arguments if argument.startswith("--config=")]
    try:
        return unknown_field(files[-1], arguments) if files else None
    except InputError:  # the file itself is wrong
        return None
