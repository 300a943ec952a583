"""The command line: `python -m seemore_jax COMMAND …`, a module for each command.

Without a command, as in `seemore-jax photo.jpg`, images are upscaled.

The modules of the commands import what takes long when a command runs, so that `--help` is quick.

`train` and `evaluate` take flags of absl; the others, arguments of argparse.

A wrong input gives one line on standard error and exit status 2. `upscale` of several files goes on without those that
it cannot use, and ends with status 1.
"""

import argparse
import glob
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from seemore_jax.command_line import compile as compile_command
from seemore_jax.command_line import convert, demo, doctor, export, info, models, prepare, routes, upscale, web
from seemore_jax.command_line.streams import STREAM
from seemore_jax.system.errors import InputError
from seemore_jax.system.exit_status import INTERRUPTED, exit_status
from seemore_jax.version import __version__

# In the order of --help.
_COMMANDS = (upscale, models, routes, convert, export, info, demo, prepare, web, doctor, compile_command)
# Commands whose module parses its own arguments, by flags of absl, and exits.
_SCRIPTS = {
    "train": "train a network, or go on with a run; --help lists its flags",
    "evaluate": "evaluate weights on benchmark sets; --help lists its flags",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. After Ctrl-C it does not return but ends the process."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in _SCRIPTS:
        return _run_script(*arguments)
    parser = _parser()
    options, overrides = parser.parse_known_args(
        ["upscale", *arguments] if _begins_with_an_input(arguments) else arguments
    )
    options.overrides = overrides
    if overrides and not options.takes_overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    from seemore_jax.system.compilation_cache import use_compilation_cache
    from seemore_jax.system.files import remove_unfinished_files

    use_compilation_cache()
    status = exit_status(lambda: _run(options))
    if status == INTERRUPTED:
        remove_unfinished_files()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # an orderly exit would wait until the last archive is downloaded
    return status


def _run(options: argparse.Namespace) -> int | None:
    try:
        status: int | None = options.run(options)
        return status
    except ModuleNotFoundError as error:
        raise _missing(error, options.extra) from error


def _run_script(name: str, *arguments: str) -> int:
    """Runs a command of `_SCRIPTS`. It returns only if a package is missing."""
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        missing = _missing(error, {"evaluate": "eval"}.get(name, name))
        return exit_status(lambda: _raise(missing))
    module.main([f"{_program()} {name}", *arguments])
    return 0


def _missing(error: ModuleNotFoundError, extra: str) -> Exception:
    """Returns an error in one line about a package that is not installed, or the error itself if it is a mistake here.

    Args:
      error: the error.
      extra: the extra of this package that brings what the command needs; empty if it needs none.
    """
    package = (error.name or "").partition(".")[0]
    if not extra or package in ("", "seemore_jax"):
        return error
    return InputError(f"needs the package {package}, which is not installed: pip install 'seemore-jax[{extra}]'")


def _raise(error: Exception) -> None:
    raise error


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "python -m seemore_jax" if name == "__main__.py" else name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_program(),
        description="SeemoRe image super-resolution. Without a command, the inputs are upscaled.",
    )
    parser.add_argument("--version", action="version", version=f"seemore-jax {__version__}")
    # Only `compile` takes further arguments, --config.FIELD=VALUE.
    parser.set_defaults(takes_overrides=False, extra="")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    for name, description in _SCRIPTS.items():
        commands.add_parser(name, help=description, add_help=False)
    return parser


def _begins_with_an_input(arguments: Sequence[str]) -> bool:
    """Returns whether the first argument is an image, a pattern or a folder instead of a command."""
    if not arguments:
        return False
    first = arguments[0]
    if first.startswith("-"):
        return first == STREAM
    return Path(first).exists() or bool(Path(first).suffix) or glob.has_magic(first)
