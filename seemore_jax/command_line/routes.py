"""The command `routes`: plots the experts that images choose."""

import argparse
from pathlib import Path

from seemore_jax.command_line.options import add_model_options, load_model
from seemore_jax.system.errors import InputError

_PLOTS = (".png", ".pdf", ".svg")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("routes", help="plot the experts that images choose")
    command.add_argument("input", metavar="IMAGE", nargs="+", help="image file, pattern, or folder")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the plot: .png, .pdf or .svg"
    )
    add_model_options(command)
    command.set_defaults(run=run, extra="eval")


def run(options: argparse.Namespace) -> None:
    """Writes the plot."""
    from seemore_jax.data.images import read_picture, to_rgb8, without_grey_alpha
    from seemore_jax.evaluation.routes import Routes, routes_figure  # Matplotlib takes a while to import
    from seemore_jax.inference.jobs import find_sources
    from seemore_jax.inference.upscaling import routing
    from seemore_jax.system.files import atomic_write

    if options.output.suffix.lower() not in _PLOTS:
        raise InputError(f"{options.output}: plots cannot be written in this format; use {', '.join(_PLOTS)}")
    pictures = [(source.path, read_picture(source.path)) for source in find_sources(options.input, options.output)]
    model = load_model(options)
    routes = []
    for path, picture in pictures:
        image = to_rgb8(without_grey_alpha(picture.pixels))
        routes.append(Routes.of(path.name, image, routing(model, picture.pixels)))
    with atomic_write(options.output) as temporary:
        routes_figure(routes, model.config.ranks).savefig(temporary, dpi=150)
    print(f"{options.output}: {len(routes)} images, {model.config.num_layers} layers")
