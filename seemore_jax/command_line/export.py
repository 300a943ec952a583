"""The command `export`: writes the network as a StableHLO or ONNX program."""

import argparse
from pathlib import Path

from seemore_jax.command_line.options import add_model_options, load_model


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("export", help="write the network as a program: StableHLO for JAX, or ONNX")
    command.add_argument("target", metavar="OUT", type=Path, help="file: .stablehlo or .onnx")
    add_model_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Writes the program."""
    from seemore_jax import exporting  # jax.export takes a while to import

    exporting.check_target(options.target)
    exporting.export(load_model(options), options.target)
    print(f"{options.model} → {options.target}")
