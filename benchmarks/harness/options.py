"""Adds command-line options that several benchmarks have, so that they have one name and one meaning."""

import argparse
from pathlib import Path

from benchmarks.harness.networks import MODELS

IMPLEMENTATIONS = ("plain", "auto", "cpu", "gpu")
# The release fails on smaller images.
_SMALLEST_SIDE = 16


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds --output."""
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the measurements to this file")


def add_rounds(parser: argparse.ArgumentParser, default: int) -> None:
    """Adds --rounds."""
    parser.add_argument(
        "--rounds", type=int, default=default, help="how often each measurement is taken (default: %(default)s)"
    )


def add_seed(parser: argparse.ArgumentParser, determines: str) -> None:
    """Adds --seed; `determines` names what is random."""
    parser.add_argument("--seed", type=int, default=0, help=f"determines {determines} (default: %(default)s)")


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Adds --cache."""
    help = "where compiled programs are kept and looked for (default: a temporary folder)"
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help=help)


def add_model(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Adds --model, the name of a variant and scale; `note` is added to the help text."""
    help = f"variant and scale{note} (default: %(default)s)"
    parser.add_argument("--model", choices=MODELS, default="T-x4", metavar="T-x4", help=help)


def add_weights_name(parser: argparse.ArgumentParser) -> None:
    """Adds --model, weights that `seemore_jax.load` accepts."""
    parser.add_argument("--model", default="T-x4", help="bundled weights or a weights file (default: %(default)s)")


def add_implementations(parser: argparse.ArgumentParser) -> None:
    """Adds --implementation with one or several values."""
    help = "how this package computes the network (default: auto)"
    parser.add_argument("--implementation", nargs="+", choices=IMPLEMENTATIONS, default=["auto"], help=help)


def add_training_batch(parser: argparse.ArgumentParser) -> None:
    """Adds --batch_size and --patch_size of a training step."""
    parser.add_argument("--batch_size", type=int, default=4, help="patches in a training step (default: %(default)s)")
    parser.add_argument(
        "--patch_size", type=int, default=64, help="side of a training patch in LR pixels (default: %(default)s)"
    )


def image_size(text: str) -> tuple[int, int]:
    """Returns (width, height) of a size such as "320x180".

    Raises:
      argparse.ArgumentTypeError: the text is no size, or a side is too short for the release.
    """
    try:
        width, height = (int(side) for side in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 320x180") from None
    if min(width, height) < _SMALLEST_SIDE:
        raise argparse.ArgumentTypeError(f"each side must have at least {_SMALLEST_SIDE} pixels")
    return width, height
