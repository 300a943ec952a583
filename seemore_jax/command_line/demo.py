"""The command `demo`: upscales real photographs and measures the result."""

import argparse
from pathlib import Path

from seemore_jax.command_line.options import add_model_options, load_model


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("demo", help="upscale real photographs and measure the result")
    command.add_argument("-o", "--output", type=Path, default=Path("build/demo"), help="folder (default: %(default)s)")
    command.add_argument(
        "--data", type=Path, action="append", default=[], metavar="DIR", help="further images, such as Set5; repeatable"
    )
    add_model_options(command)
    command.set_defaults(run=run, extra="eval")


def run(options: argparse.Namespace) -> None:
    """Runs the demo."""
    from seemore_jax.evaluation.demo import run_demo  # Matplotlib takes a while to import

    run_demo(load_model(options), options.model, options.output, options.data)
