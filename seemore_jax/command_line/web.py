"""The command `web`: serves a page in the browser."""

import argparse

from seemore_jax.command_line.options import add_device_option, add_hyperparameters, hyperparameters
from seemore_jax.porting.bundled import DEFAULT_MODEL
from seemore_jax.system.devices import use_device


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("web", help="serve a page in the browser: upscale a picture, compare, download")
    add = command.add_argument
    add(
        "-m",
        "--model",
        action="append",
        default=[],
        help="a model that the page offers beside the bundled ones, and selects first; repeatable",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    add("--max_pixels", type=int, metavar="N", help="refuse larger images (default: 2 million)")
    add_device_option(command)
    add_hyperparameters(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serves the page until it is interrupted."""
    from seemore_jax.web import MAX_PIXELS, load_models, serve  # Gradio takes seconds to import

    if options.device:
        use_device(options.device)
    models = load_models(options.model, **hyperparameters(options))
    chosen = options.model[0] if options.model else DEFAULT_MODEL
    serve(models, chosen, options.host, options.port, options.max_pixels or MAX_PIXELS)
