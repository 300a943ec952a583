"""The command `web`: serves a page in the browser."""

import argparse

from seemore_jax.command_line.options import add_device_option, add_hyperparameters, hyperparameters
from seemore_jax.system.devices import use_device


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("web", help="serve a page in the browser: upscale pictures, compare, download")
    add = command.add_argument
    add(
        "-m",
        "--model",
        action="append",
        default=[],
        help="a model that the page offers beside the bundled ones, and selects first; repeatable",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, only for this machine)")
    add("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    add(
        "--password",
        metavar="WORD|@FILE",
        help="ask visitors for this password, or for that in a file; other users of this machine can read a WORD in "
        "the list of processes, but not the file, nor the environment variable SEEMORE_PASSWORD",
    )
    add("--max_pixels", type=int, metavar="N", help="refuse larger images (default: by the free memory)")
    add_device_option(command)
    add_hyperparameters(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serves the page until it is interrupted."""
    from seemore_jax.web.address import Address
    from seemore_jax.web.choices import load_choices
    from seemore_jax.web.start import read_password, serve

    password = read_password(options.password)
    address = Address(options.host, options.port)
    address.check()  # before the models are loaded
    if options.device:
        use_device(options.device)
    serve(load_choices(options.model, **hyperparameters(options)), address, password, options.max_pixels)
