"""The command `upscale`: upscales images, and folders of images."""

import argparse
import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seemore_jax.command_line.options import (
    add_device_option,
    add_model_options,
    add_process_options,
    hyperparameters,
    load_model,
)
from seemore_jax.command_line.streams import (
    OUTPUT_NAME,
    STREAM,
    check_stream_target,
    read_stream,
    stream_folder,
    without_folder,
    write_stream,
)
from seemore_jax.data.formats import FORMATS, MAX_PIXELS, written_format
from seemore_jax.network.config import SCALES
from seemore_jax.porting.bundled import DEFAULT_MODEL, DEFAULT_SCALE
from seemore_jax.system.errors import InputError

if TYPE_CHECKING:
    from seemore_jax.inference.folder import Settings
    from seemore_jax.inference.jobs import Job
    from seemore_jax.inference.outcomes import Outcome
    from seemore_jax.network import SeemoRe

# The formats that can be written, by the values of --format.
_WRITTEN = {name: each for name, each in FORMATS.items() if each.written}
_WITH_QUALITY = [name for name, each in _WRITTEN.items() if each.quality is not None]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("upscale", help="upscale images and folders of images")
    add = command.add_argument
    add(
        "input", metavar="INPUT", nargs="+", help="image file, pattern, folder with subfolders, or - for standard input"
    )
    add(
        "-o",
        "--output",
        type=Path,
        help="image file, folder for NAME_x4.png (at ×4), or - for standard output; by default, beside the inputs",
    )
    add_model_options(command, None, f"{DEFAULT_MODEL}; for strongly compressed JPEG files {DEFAULT_MODEL}-jpeg")
    add("-s", "--scale", type=int, choices=SCALES, help="scale of a bundled model, instead of --model")
    add("--outscale", type=float, metavar="X", help="final factor, if not the model's: the output is then resized")
    add("--suffix", metavar="S", help="end of the names of files in a folder (default: _x and the factor)")
    add("--format", choices=_WRITTEN, help="format of outputs (default: png; for several images in a file, its own)")
    add("--quality", type=_quality, metavar="N", help=f"quality of {', '.join(_WITH_QUALITY)}, from 1 to 100")
    add("--overwrite", action="store_true", help="write files in a folder again if they exist")
    add(
        "--strip_rows",
        type=_rows,
        metavar="N",
        help="compute large images in strips of N rows; 0: never in strips (default: by memory)",
    )
    add("--tile", type=_rows, action=_OldName, new="strip_rows", help=argparse.SUPPRESS)
    add("--tta", action="store_true", help="average over eight flips and transposes, which takes eight times as long")
    add("--flatten", action="store_true", help="put transparent images on a white background")
    add("--8bit", action="store_true", dest="eight_bit", help="write 16-bit images with 8 bits")
    add("--max_pixels", type=int, default=MAX_PIXELS, metavar="N", help="refuse larger images (default: %(default)s)")
    add_device_option(command)
    add_process_options(command)
    add("--quiet", action="store_true", help="print failures only")
    add("--json", type=Path, metavar="FILE", help="write the outcome of each file as JSON")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Upscales all inputs. Returns the exit status: 1 if some failed."""
    target = STREAM if options.output is None and options.input == [STREAM] else str(options.output)
    to_stream = target == STREAM
    if STREAM not in options.input and not to_stream:
        return _upscale(options)
    if len(options.input) > 1:
        raise InputError(f"{STREAM}: a stream is one image; give one INPUT")
    if to_stream:
        check_stream_target()
    with stream_folder() as folder:
        if options.input == [STREAM]:
            options.input = [str(read_stream(folder))]
        if to_stream:
            options.output = folder / f"{OUTPUT_NAME}{_extension(options, Path(options.input[0]))}"
        status = _upscale(options, lambda text: without_folder(text, folder), to_stream=to_stream)
        if to_stream:
            write_stream(options.output)
    return status


def _extension(options: argparse.Namespace, source: Path) -> str:
    """Returns the extension of an output in a stream, which has no name that could tell it."""
    from seemore_jax.inference.jobs import default_extension

    return _WRITTEN[options.format].suffixes[0] if options.format else default_extension(source)


def _upscale(
    options: argparse.Namespace, shown: Callable[[str], str] = lambda text: text, *, to_stream: bool = False
) -> int:
    """Upscales files, with the other processes of the run if there are any. Returns the exit status.

    Args:
      options: the options of the command, with files in the place of streams.
      shown: function that returns a text as the user sees it.
      to_stream: whether standard output gets the image, so that messages go to standard error.
    """
    from seemore_jax.system.devices import use_device
    from seemore_jax.system.process_monitor import monitored
    from seemore_jax.system.processes import from_first_process, is_first_process, join_processes

    if options.cluster or any(given is not None for given in _process_options(options)):
        join_processes(*_process_options(options), cluster=options.cluster)
    if options.device:
        use_device(options.device)
    with monitored("start all processes again; they skip the files that are made"):
        outcomes, alone = _outcomes(options, shown)
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        if is_first_process():
            _report(options, outcomes, shown, alone=alone, to_stream=to_stream)
        return int(from_first_process(1 if failed else 0))


def _process_options(options: argparse.Namespace) -> tuple[str | None, int | None, int | None]:
    return options.coordinator, options.num_processes, options.process_id


def _outcomes(options: argparse.Namespace, shown: Callable[[str], str]) -> "tuple[list[Outcome], bool]":
    """Upscales files. Returns their outcomes, and whether the user named a single file."""
    from seemore_jax.data.images import read_header, read_picture
    from seemore_jax.inference.jobs import find_files, is_image_file, name_jobs
    from seemore_jax.inference.outcomes import not_supported
    from seemore_jax.system.processes import barrier

    # Check the files before the long computation.
    found = find_files(options.input, options.output)
    barrier("files found")  # no process has made an output before
    to_file = bool(options.output and is_image_file(options.output))
    _check_options(options, to_file=to_file)
    alone = len(found.sources) == 1 and found.sources[0].named
    if alone and read_header(found.sources[0].path) is None:
        read_picture(found.sources[0].path)  # raises the error before the model is loaded
    model = load_model(options) if options.model else None
    scale = model.config.scale if model else options.scale or DEFAULT_SCALE
    suffix = f"_x{options.outscale or scale:g}" if options.suffix is None else options.suffix
    extension = _WRITTEN[options.format].suffixes[0] if options.format else None
    jobs = name_jobs(found.sources, options.output, suffix, extension)
    if options.quality and not any(written_format(job.target).quality for job in jobs):
        formats = ", ".join(_WITH_QUALITY)
        raise InputError(f"--quality {options.quality}: only {formats} have one; --format or the suffix of -o chooses")
    models = [(model, _chosen_by_user(options.model, jobs))] if model else _chosen_by_file(options, scale, jobs)
    settings = _settings(options, to_file=to_file)
    outcomes = _upscale_with_progress(models, settings, shown, quiet=options.quiet, alone=alone)
    return outcomes + [not_supported(path) for path in found.not_supported], alone


def _settings(options: argparse.Namespace, *, to_file: bool) -> "Settings":
    from seemore_jax.inference.folder import Settings

    return Settings(
        outscale=options.outscale,
        ensemble=options.tta,
        flatten=options.flatten,
        eight_bit=options.eight_bit,
        strip_rows=options.strip_rows,
        overwrite=options.overwrite or to_file,  # the user named this very file
        max_pixels=options.max_pixels,
        quality=options.quality,
    )


def _report(
    options: argparse.Namespace,
    outcomes: "Sequence[Outcome]",
    shown: Callable[[str], str],
    *,
    alone: bool,
    to_stream: bool,
) -> None:
    """Writes the JSON file, and prints the last line. Raises the error of a file alone."""
    from seemore_jax.inference.outcomes import summary

    if options.json:
        _write_json(options.json, outcomes, shown)
    if alone and outcomes[0].status == "failed":
        raise InputError(str(outcomes[0].error))
    if not options.quiet:
        place = f"{options.output}: " if options.output else ""
        line = _described(outcomes[0], with_model=not options.model) if alone else place + summary(outcomes)
        print(shown(line), file=sys.stderr if to_stream else None)


def _check_options(options: argparse.Namespace, *, to_file: bool) -> None:
    """Checks options that do not fit together."""
    if to_file and options.format and options.output.suffix.lower() not in _WRITTEN[options.format].suffixes:
        raise InputError(f"{options.output}: the suffix does not fit --format {options.format}")
    if options.scale and options.model:
        raise InputError(f"--scale {options.scale}: give either a scale or a model ({options.model})")


def _chosen_by_user(model: str, jobs: "Sequence[Job]") -> "list[Job]":
    from seemore_jax.inference.model_choice import ModelChoice

    return [dataclasses.replace(job, choice=ModelChoice(model, "as chosen by --model")) for job in jobs]


def _chosen_by_file(
    options: argparse.Namespace, scale: int, jobs: "Sequence[Job]"
) -> "list[tuple[SeemoRe, Sequence[Job]]]":
    """Returns each bundled model that a file needs, with its jobs."""
    from seemore_jax.inference.model_choice import choose_model
    from seemore_jax.porting import load

    by_model: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        choice = choose_model(job.source, scale)
        by_model[choice.model].append(dataclasses.replace(job, choice=choice))
    return [(load(model, **hyperparameters(options)), chosen) for model, chosen in sorted(by_model.items())]


class _OldName(argparse.Action):
    """An option under its old name, which works for one release and prints a notice."""

    def __init__(self, option_strings: Sequence[str], dest: str, new: str, **arguments: object) -> None:
        super().__init__(option_strings, new, default=argparse.SUPPRESS, **arguments)  # type: ignore[arg-type]

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        print(f"note: {option} is now called --{self.dest}; the old name goes with the next release", file=sys.stderr)
        setattr(namespace, self.dest, values)


def _quality(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 100, not {text!r}")
    return int(text)


def _rows(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of rows, or 0, not {text!r}")
    return int(text)


def _upscale_with_progress(
    models: "Sequence[tuple[SeemoRe, Sequence[Job]]]",
    settings: "Settings",
    shown: Callable[[str], str],
    *,
    quiet: bool,
    alone: bool,
) -> "list[Outcome]":
    """Runs the jobs with progress bars; prints notes and failures at once."""
    from seemore_jax.command_line.bars import Bars
    from seemore_jax.inference.folder import FileCallbacks, upscale_files
    from seemore_jax.system.processes import is_first_process

    outcomes = []
    is_first = is_first_process()
    with Bars(None if alone else sum(len(jobs) for _, jobs in models), quiet=quiet or not is_first) as bars:

        def announce(line: str) -> None:
            if not quiet and is_first:
                bars.write(shown(f"note: {line}"))

        for model, jobs in models:
            for outcome in upscale_files(model, jobs, settings, FileCallbacks(bars.show, announce)):
                outcomes.append(outcome)
                if not is_first:  # process 0 prints the messages of all
                    continue
                for note in outcome.notes:
                    bars.write(shown(f"note: {outcome.job.source}: {note}"))
                if outcome.status == "failed" and not alone:
                    bars.write(shown(f"error: {outcome.error}"))
                bars.finish(outcome)
    return outcomes


def _described(outcome: "Outcome", *, with_model: bool) -> str:
    """Returns a line about a file alone; `with_model` says which weights it got, and why."""
    if outcome.before is None or outcome.after is None:
        return f"{outcome.job.target}: exists already; --overwrite writes it again"
    images = f", {outcome.images} images" if outcome.images > 1 else ""
    choice = outcome.job.choice
    by = f", by {choice.model}, {choice.reason}" if choice and with_model else ""
    return "{}: {}×{} → {}×{}{}{}".format(outcome.job.target, *outcome.before, *outcome.after, images, by)


def _write_json(path: Path, outcomes: "Sequence[Outcome]", shown: Callable[[str], str]) -> None:
    from seemore_jax.system.files import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(shown(json.dumps([outcome.to_json() for outcome in outcomes], indent=2)) + "\n")
