"""The command `prepare`: writes a training set."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("prepare", help="write a training set: images cut into tiles")
    add = command.add_argument
    add("name", metavar="NAME", help="div2k, df2k or image_folder")
    add("--data_dir", type=Path, required=True, metavar="DIR", help="folder of the datasets")
    add(
        "--source",
        type=Path,
        action="append",
        default=[],
        help="for image_folder: image, folder of images, set (HR/, LR_bicubic/X4/) or folder of sets; repeatable",
    )
    add(
        "--halved_source",
        type=Path,
        action="append",
        default=[],
        metavar="SOURCE",
        help="like --source, for camera JPEGs: shrinks them by 2 first, which removes their blocks; repeatable",
    )
    add("--manual_dir", type=Path, metavar="DIR", help="for df2k: folder with Flickr2K; may also hold DIV2K's archives")
    add("--scale", type=int, nargs="+", action="extend", metavar="N", help="scales, a set for each (default: 2 3 4)")
    add("--skip_bad", action="store_true", help="leave out images that cannot be read")
    command.set_defaults(run=run, extra="train")


def run(options: argparse.Namespace) -> None:
    """Writes the training set."""
    from seemore_jax.data.preparation import prepare  # TFDS takes seconds to import

    prepare(
        options.name,
        options.data_dir,
        scales=options.scale or [2, 3, 4],
        sources=options.source,
        halved_sources=options.halved_source,
        manual_dir=options.manual_dir,
        skip_bad=options.skip_bad,
    )
