"""The options of `python -m seemore_jax compile`."""

import argparse


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of the command; `--config.FIELD=VALUE` is left to `read_experiment`."""
    add = command.add_argument
    add("--config", required=True, metavar="FILE", help="experiment, as train.py takes it; with --config.FIELD=VALUE")
    add(
        "--topology",
        required=True,
        action="append",
        metavar="CHIP:LAYOUT",
        help="such as v5e:16x16; repeatable, for a table of several",
    )
    add(
        "--batch_per_chip",
        type=_positive,
        metavar="N",
        help="default: config.batch_size over all chips; one that is below their number is each chip's",
    )
    add("--second_batch", type=_positive, metavar="N", help="compile N for each chip too: a better largest batch")
    add("--inference", type=_size, metavar="HEIGHTxWIDTH", help="one image on one chip instead of the training step")
    add("--no_kernels", dest="kernels", action="store_false", help="leave out the cycles of the Pallas kernels")
    add("--json", metavar="FILE", help="write all figures")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a positive number, not {text!r}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return _positive(height), _positive(width)
