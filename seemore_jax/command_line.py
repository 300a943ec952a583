"""The command line: `python -m seemore_jax COMMAND …`.

A wrong input gives one line on standard error and exit status 2.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seemore_jax.data.images import check_image_target, read_image, write_image
from seemore_jax.demo import run_demo
from seemore_jax.errors import InputError
from seemore_jax.exit_status import exit_status
from seemore_jax.inference import upscale
from seemore_jax.network import SeemoRe
from seemore_jax.porting import load, read_weights, save
from seemore_jax.porting.hyperparameters import UNREADABLE
from seemore_jax.porting.weights import check_target
from seemore_jax.version import __version__

DEFAULT_MODEL = "T-x4"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seemore_jax", description="SeemoRe image super-resolution.")
    parser.add_argument("--version", action="version", version=f"seemore-jax {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("upscale", help="upscale an image")
    command.add_argument("input", metavar="INPUT", type=Path, help="image file")
    command.add_argument(
        "-o", "--output", type=Path, required=True, help="image file, or a folder for NAME_x4.png (×4)"
    )
    _add_model_options(command)
    command.set_defaults(run=_run_upscale)

    command = commands.add_parser("convert", help="convert weights between .pth, .safetensors and directories")
    command.add_argument("source", metavar="SOURCE", help="weights in any supported format, or a bundled name")
    command.add_argument("target", metavar="TARGET", type=Path, help=".pth, .safetensors, or a directory (no suffix)")
    _add_hyperparameters(command)
    command.set_defaults(run=_run_convert)

    command = commands.add_parser("info", help="what is in a weights file")
    command.add_argument("file", metavar="FILE", help="weights in any supported format, or a bundled name")
    _add_hyperparameters(command)
    command.set_defaults(run=_run_info)

    command = commands.add_parser("demo", help="upscale real photographs and measure the result")
    command.add_argument("-o", "--output", type=Path, default=Path("build/demo"), help="folder (default: %(default)s)")
    _add_model_options(command)
    command.set_defaults(run=_run_demo)

    command = commands.add_parser("prepare", help="write a training set once: images cut into tiles")
    command.add_argument("name", metavar="NAME", help="div2k, df2k or image_folder")
    command.add_argument("--data_dir", type=Path, required=True, metavar="DIR", help="folder of the datasets")
    command.add_argument(
        "--source",
        type=Path,
        action="append",
        default=[],
        help="for image_folder: image, folder of images, set (HR/, LR_bicubic/X4/) or folder of sets; repeatable",
    )
    command.add_argument(
        "--manual_dir", type=Path, metavar="DIR", help="for df2k: folder with Flickr2K; also archives of DIV2K"
    )
    command.add_argument(
        "--scale", type=int, nargs="+", default=[2, 3, 4], metavar="N", help="one set each (default: 2 3 4)"
    )
    command.add_argument("--skip_bad", action="store_true", help="leave out images that cannot be used")
    command.set_defaults(run=_run_prepare)
    return parser


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-m", "--model", default=DEFAULT_MODEL, help="weights file, directory or bundled name (default: %(default)s)"
    )
    _add_hyperparameters(command)


def _add_hyperparameters(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("what a foreign weights file may not tell")
    group.add_argument("--use_shuffle", type=_boolean, metavar="true|false")
    group.add_argument("--recursive", type=int, metavar="N")
    group.add_argument("--topk", type=int, metavar="K")
    group.add_argument("--img_range", type=float, metavar="RANGE")


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"true or false, not {text!r}")
    return text == "true"


def _hyperparameters(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in UNREADABLE}
    return {name: value for name, value in given.items() if value is not None}


def _load_model(options: argparse.Namespace) -> SeemoRe:
    return load(options.model, **_hyperparameters(options))


def _run_upscale(options: argparse.Namespace) -> None:
    # What can be found out about the files is found out before the long computation.
    image = read_image(options.input)
    model = _load_model(options)
    is_folder = options.output.is_dir() or not options.output.suffix
    output = options.output / f"{options.input.stem}_x{model.config.scale}.png" if is_folder else options.output
    check_image_target(output, image)
    if output.resolve() == options.input.resolve():
        raise InputError(f"{output}: is the input itself; choose another output")
    upscaled = upscale(model, image)
    write_image(output, upscaled)
    print(f"{output}: {_size(image)} → {_size(upscaled)}")


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"


def _run_convert(options: argparse.Namespace) -> None:
    check_target(options.target)
    save(load(options.source, **_hyperparameters(options)), options.target)
    print(f"{options.source} → {options.target}")


def _run_info(options: argparse.Namespace) -> None:
    weights = read_weights(options.file, **_hyperparameters(options))
    weights.to_model()  # reports parameters that are missing or left over
    config, origin = weights.config, weights.hyperparameters.origin
    name = f"SeemoRe-{config.variant_name}" if config.variant_name else "SeemoRe, none of the published variants"
    count = sum(tensor.size for tensor in weights.tensors.values())
    print(f"file        {weights.source}")
    print(f"variant     {name}")
    print(f"scale       ×{config.scale}")
    print(f"parameters  {count:,} in {len(weights.tensors)} tensors")
    print(f"read        {weights.entry}")
    print("configuration")
    for field, value in config.to_dict().items():
        print(f"  {field:<20}{value!s:<8}{origin[field]}")


def _run_demo(options: argparse.Namespace) -> None:
    run_demo(_load_model(options), options.model, options.output)


def _run_prepare(options: argparse.Namespace) -> None:
    from seemore_jax.data.preparation import prepare  # TFDS takes seconds to import

    prepare(
        options.name,
        options.data_dir,
        scales=options.scale,
        sources=options.source,
        manual_dir=options.manual_dir,
        skip_bad=options.skip_bad,
    )
