"""The command `upscale`: upscales images, and folders of images."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from seemore_jax.command_line.options import add_device_option, add_model_options, load_model
from seemore_jax.data.images import MAX_PIXELS, read_header, read_picture
from seemore_jax.inference.folder import Outcome, Settings, summary, upscale_files
from seemore_jax.inference.jobs import Job, find_sources, is_image_file, name_jobs
from seemore_jax.network import SeemoRe
from seemore_jax.network.config import SCALES
from seemore_jax.porting.weights import DEFAULT_MODEL
from seemore_jax.system.devices import use_device
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import atomic_write

# The values of --format, with their suffixes. The first suffix is the one that new files get.
_FORMATS = {"png": (".png",), "jpg": (".jpg", ".jpeg"), "webp": (".webp",), "tiff": (".tiff", ".tif")}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("upscale", help="upscale images and folders of images")
    add = command.add_argument
    add("input", metavar="INPUT", nargs="+", help="image file, pattern, or folder with subfolders")
    add(
        "-o",
        "--output",
        type=Path,
        help="image file, or a folder for NAME_x4.png (at ×4); by default, files are beside their inputs",
    )
    add_model_options(command)
    add("-s", "--scale", type=int, choices=SCALES, help="scale of a bundled model, instead of --model")
    add("--outscale", type=float, metavar="X", help="final factor, if not the model's: the output is then resized")
    add("--suffix", metavar="S", help="end of the names of files in a folder (default: _x and the factor)")
    add("--format", choices=_FORMATS, help="format of the files in a folder (default: png)")
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
    add("--quiet", action="store_true", help="print failures only")
    add("--json", type=Path, metavar="FILE", help="write the outcome of each file as JSON")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Upscales all inputs. Returns the exit status: 1 if some failed."""
    # Check the files before the long computation.
    sources = find_sources(options.input, options.output)
    to_file = bool(options.output and is_image_file(options.output))
    if to_file and options.format and options.output.suffix.lower() not in _FORMATS[options.format]:
        raise InputError(f"{options.output}: the suffix does not fit --format {options.format}")
    if options.scale:
        if options.model != DEFAULT_MODEL:
            raise InputError(f"--scale {options.scale}: give either a scale or a model ({options.model})")
        options.model = f"T-x{options.scale}"
    if options.device:
        use_device(options.device)
    alone = len(sources) == 1 and sources[0].named
    if alone and read_header(sources[0].path) is None:
        read_picture(sources[0].path)  # raises the error before the model is loaded
    model = load_model(options)
    suffix = f"_x{options.outscale or model.config.scale:g}" if options.suffix is None else options.suffix
    jobs = name_jobs(sources, options.output, suffix, _FORMATS[options.format or "png"][0])
    settings = Settings(
        outscale=options.outscale,
        ensemble=options.tta,
        flatten=options.flatten,
        eight_bit=options.eight_bit,
        strip_rows=options.strip_rows,
        overwrite=options.overwrite or to_file,  # the user named this very file
        max_pixels=options.max_pixels,
    )
    outcomes = _upscale_with_progress(model, jobs, settings, quiet=options.quiet, alone=alone)
    if options.json:
        _write_json(options.json, outcomes)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if alone and failed:
        raise InputError(str(failed[0].error))
    if not options.quiet:
        place = f"{options.output}: " if options.output else ""
        print(_described(outcomes[0]) if alone else place + summary(outcomes))
    return 1 if failed else 0


class _OldName(argparse.Action):
    """An option under its old name, which works for one release and prints a notice."""

    def __init__(self, option_strings: Sequence[str], dest: str, new: str, **arguments: object) -> None:
        super().__init__(option_strings, new, default=argparse.SUPPRESS, **arguments)  # type: ignore[arg-type]

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        print(f"note: {option} is now called --{self.dest}; the old name goes with the next release", file=sys.stderr)
        setattr(namespace, self.dest, values)


def _rows(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of rows, or 0, not {text!r}")
    return int(text)


def _upscale_with_progress(
    model: SeemoRe, jobs: Sequence[Job], settings: Settings, *, quiet: bool, alone: bool
) -> list[Outcome]:
    """Runs the jobs with a progress bar over the files and one within a large file; prints failures at once."""
    outcomes = []
    hidden = True if quiet else None  # None: tqdm hides the bar where there is no terminal
    files = tqdm(total=len(jobs), unit="image", desc="upscaling", disable=True if alone else hidden)
    within = tqdm(total=1.0, leave=False, bar_format="{desc}: {percentage:3.0f}%|{bar}| {remaining}", disable=hidden)

    def show(job: Job, share: float) -> None:
        within.set_description_str(job.source.name, refresh=False)
        within.update(share - within.n)

    with files, within:
        for outcome in upscale_files(model, jobs, settings, show):
            outcomes.append(outcome)
            for note in outcome.notes:
                files.write(f"note: {outcome.job.source}: {note}", file=sys.stderr)
            if outcome.status == "failed" and not alone:
                files.write(f"error: {outcome.error}", file=sys.stderr)
            files.update()
    return outcomes


def _described(outcome: Outcome) -> str:
    if outcome.before is None or outcome.after is None:
        return f"{outcome.job.target}: exists already; --overwrite writes it again"
    return "{}: {}×{} → {}×{}".format(outcome.job.target, *outcome.before, *outcome.after)


def _write_json(path: Path, outcomes: Sequence[Outcome]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps([outcome.to_json() for outcome in outcomes], indent=2) + "\n")
