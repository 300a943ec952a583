"""Options that several commands share, and what they stand for."""

import argparse
from typing import TYPE_CHECKING, Any

from seemore_jax.network.config import NOT_IN_SHAPES
from seemore_jax.porting.bundled import DEFAULT_MODEL
from seemore_jax.system.devices import DEVICES

if TYPE_CHECKING:
    from seemore_jax.network import SeemoRe


def add_model_options(
    command: argparse.ArgumentParser, default: str | None = DEFAULT_MODEL, said: str = "%(default)s"
) -> None:
    """Adds `--model` and the hyperparameters that a weights file may lack.

    Args:
      command: parser of the command.
      default: the default model; None if the command chooses one.
      said: what the help says about the default.
    """
    command.add_argument(
        "-m",
        "--model",
        default=default,
        help=f"weights file, folder, bundled name or user/repo[@revision] (default: {said})",
    )
    add_hyperparameters(command)


def add_hyperparameters(command: argparse.ArgumentParser) -> None:
    """Adds an option for each hyperparameter that cannot be read from the weights' shapes."""
    group = command.add_argument_group("hyperparameters that a weights file from elsewhere may not contain")
    group.add_argument("--use_shuffle", type=_boolean, metavar="true|false", help="channel shuffle in the MoRE block")
    group.add_argument("--recursive", type=int, metavar="N", help="reductions of the context by 4")
    group.add_argument("--topk", type=int, metavar="K", help="experts that each router chooses")
    group.add_argument("--img_range", type=float, metavar="RANGE", help="range of values inside the network")


def add_device_option(command: argparse.ArgumentParser) -> None:
    """Adds `--device`."""
    command.add_argument(
        "--device", choices=DEVICES, help="device that computes (default: the fastest one that JAX finds)"
    )


def hyperparameters(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the hyperparameters that the user gave, by name."""
    given = {name: getattr(options, name) for name in NOT_IN_SHAPES}
    return {name: value for name, value in given.items() if value is not None}


def add_process_options(command: argparse.ArgumentParser) -> None:
    """Adds the options by which the processes of a run on several hosts join, as in `train.py`."""
    group = command.add_argument_group("several hosts, which share the folders: the same command on each of them")
    group.add_argument("--cluster", action="store_true", help="ask the cluster (TPU pod, SLURM, Kubernetes)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, if there is no cluster to ask")
    group.add_argument("--num_processes", type=int, metavar="N", help="number of processes; with --coordinator")
    group.add_argument("--process_id", type=int, metavar="I", help="number of this process; with --coordinator")


def load_model(options: argparse.Namespace) -> "SeemoRe":
    """Loads the network that `--model` names."""
    from seemore_jax.porting import load

    return load(options.model, **hyperparameters(options))


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
    return text == "true"
