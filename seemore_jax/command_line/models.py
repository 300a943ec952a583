"""The command `models`: lists the bundled weights."""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from seemore_jax.porting.bundled import BUNDLED, DEFAULT_MODEL


class Card(NamedTuple):
    """What the card of bundled weights says about them.

    Attributes:
      name: the name by which `--model` takes them.
      purpose: which images they are for, in one sentence.
      result: PSNR (dB) / SSIM on Set5.
      size: size of the weights file in bytes.
    """

    name: str
    purpose: str
    result: str
    size: int


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("models", help="list the bundled weights, and what they are for")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints a line for each model."""
    del options
    cards = [read_card(path) for path in sorted(BUNDLED.glob("*.safetensors"), key=lambda path: path.stem)]
    width = max(len(card.name) for card in cards)
    for card in cards:
        scale = re.sub(r".*-x(\d).*", r"×\1", card.name)
        default = " (default)" if card.name == DEFAULT_MODEL else ""
        print(f"{card.name:<{width}}  {scale}  {card.size / 1e6:.1f} MB  Set5 {card.result}  {card.purpose}{default}")


def read_card(weights: Path) -> Card:
    """Reads the card beside a bundled weights file.

    Args:
      weights: the weights file, NAME.safetensors; its card is NAME.md.
    """
    text = weights.with_suffix(".md").read_text()
    purpose = re.search(r"^Purpose: (.*?\.)\s", text, re.MULTILINE | re.DOTALL)
    result = re.search(rf"^\| {re.escape(weights.stem)} \| ([^|]*?) \|", text, re.MULTILINE)
    return Card(
        weights.stem,
        " ".join(purpose[1].split()) if purpose else "",
        result[1] if result else "–",
        weights.stat().st_size,
    )
