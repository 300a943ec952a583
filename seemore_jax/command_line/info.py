"""The command `info`: describes a weights file and what its network costs."""

import argparse

from seemore_jax.command_line.options import add_hyperparameters, hyperparameters


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("info", help="describe a weights file: its network, parameters and cost")
    command.add_argument("file", metavar="FILE", help="weights in any supported format, or a bundled name")
    add_hyperparameters(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints the description."""
    from seemore_jax.porting import read_weights

    weights = read_weights(options.file, **hyperparameters(options))
    weights.to_model()  # raises if parameters are missing or unknown
    config, origin = weights.config, weights.hyperparameters.origin
    name = f"SeemoRe-{config.variant_name}" if config.variant_name else "SeemoRe, none of the published variants"
    count = sum(tensor.size for tensor in weights.tensors.values())
    print(f"file        {weights.source}")
    print(f"variant     {name}")
    print(f"scale       ×{config.scale}")
    print(f"parameters  {count:,} in {len(weights.tensors)} tensors")
    print(f"MACs        {config.macs(720, 1280) / 1e9:.2f} G for an output of 1280×720")
    print(f"read        {weights.entry}")
    print("configuration")
    for field, value in config.to_dict().items():
        print(f"  {field:<20}{value!s:<8}{origin[field]}")
