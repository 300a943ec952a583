"""The command `compile`: compiles a program for TPUs or GPUs without one, and reports what it needs."""

import argparse


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("compile", help="compile for TPUs or GPUs without one: report what it needs")
    add = command.add_argument
    add("--config", required=True, metavar="FILE", help="experiment, as train.py takes it; with --config.FIELD=VALUE")
    add(
        "--topology",
        required=True,
        action="append",
        metavar="CHIP:LAYOUT",
        help="such as v5e:16x16, h100:8, or h100:8x4 for 4 hosts of 8; repeatable, for a table of several",
    )
    add(
        "--batch_per_chip",
        type=_positive,
        metavar="N",
        help="images on each chip (default: config.batch_size over all chips, or itself if it is below their number)",
    )
    add("--second_batch", type=_positive, metavar="N", help="also compile N per chip: a better largest batch")
    add("--inference", type=_size, metavar="HEIGHTxWIDTH", help="one image on one chip instead of the training step")
    add("--no_kernels", dest="kernels", action="store_false", help="leave out the cycles of the Pallas kernels")
    add("--json", metavar="FILE", help="write all figures as JSON")
    command.set_defaults(run=run, extra="train", takes_overrides=True)


def run(options: argparse.Namespace) -> None:
    """Compiles and prints the report."""
    from seemore_jax.ahead_of_time.report import run as report  # the training packages take seconds to import

    report(options)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, not {text!r}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return _positive(height), _positive(width)
