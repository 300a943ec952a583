"""The command `convert`: converts weights between formats."""

import argparse
from pathlib import Path

from seemore_jax.command_line.options import add_hyperparameters, hyperparameters


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("convert", help="convert weights between .pth, .safetensors and directories")
    command.add_argument(
        "source", metavar="SOURCE", help="weights in any supported format, bundled name or user/repo[@revision]"
    )
    command.add_argument("target", metavar="TARGET", type=Path, help=".pth, .safetensors, or a directory (no suffix)")
    add_hyperparameters(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Writes the weights in the target's format."""
    from seemore_jax.porting import read_weights, save
    from seemore_jax.porting.weights import BUNDLED, check_target

    check_target(options.target)
    weights = read_weights(options.source, **hyperparameters(options))
    is_bundled = BUNDLED in weights.source.parents
    save(weights.to_model(), options.target, license="apache-2.0" if is_bundled else "unknown")
    print(f"{options.source} → {options.target}")
