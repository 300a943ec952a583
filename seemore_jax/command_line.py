"""The command line: `python -m seemore_jax COMMAND …`.

A wrong input gives one line on standard error and exit status 2; `upscale` of several files goes on without those that
it cannot use, and ends with status 1.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from seemore_jax.ahead_of_time.options import add_options as add_compile_options
from seemore_jax.compilation_cache import use_compilation_cache
from seemore_jax.data.images import MAX_PIXELS, read_header, read_picture, to_rgb8, without_grey_alpha
from seemore_jax.devices import DEVICES, use_device
from seemore_jax.errors import InputError
from seemore_jax.exit_status import INTERRUPTED, exit_status
from seemore_jax.files import replacing
from seemore_jax.inference.folder import Outcome, Settings, summary, upscale_files
from seemore_jax.inference.jobs import Job, find_sources, is_image_file, name_jobs
from seemore_jax.inference.upscaling import routing
from seemore_jax.network import SeemoRe
from seemore_jax.porting import load, read_weights, save
from seemore_jax.porting.hyperparameters import UNREADABLE
from seemore_jax.porting.weights import BUNDLED, DEFAULT_MODEL, check_target
from seemore_jax.version import __version__

_PLOTS = (".png", ".pdf", ".svg")
# What --format takes, and the suffixes that mean it; the first is the one that is written.
_FORMATS = {"png": (".png",), "jpg": (".jpg", ".jpeg"), "webp": (".webp",), "tiff": (".tiff", ".tif")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. After Ctrl-C it does not return, but ends the process."""
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    options.overrides = overrides
    if overrides and options.run is not _run_compile:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    use_compilation_cache()
    status = exit_status(lambda: options.run(options))
    if status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # an orderly exit would wait until the last archive is downloaded
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seemore_jax", description="SeemoRe image super-resolution.")
    parser.add_argument("--version", action="version", version=f"seemore-jax {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("upscale", help="upscale images and folders of them")
    command.add_argument("input", metavar="INPUT", nargs="+", help="image file, pattern, or folder with subfolders")
    command.add_argument(
        "-o", "--output", type=Path, required=True, help="image file, or a folder for NAME_x4.png (×4)"
    )
    _add_model_options(command)
    _add_upscale_options(command)
    command.set_defaults(run=_run_upscale)

    command = commands.add_parser("routes", help="plot the experts that images choose")
    command.add_argument("input", metavar="IMAGE", nargs="+", help="image file, pattern, or folder")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the plot: .png, .pdf or .svg"
    )
    _add_model_options(command)
    command.set_defaults(run=_run_routes)

    command = commands.add_parser("convert", help="convert weights between .pth, .safetensors and directories")
    command.add_argument(
        "source", metavar="SOURCE", help="weights in any supported format, bundled name or user/repo[@revision]"
    )
    command.add_argument("target", metavar="TARGET", type=Path, help=".pth, .safetensors, or a directory (no suffix)")
    _add_hyperparameters(command)
    command.set_defaults(run=_run_convert)

    command = commands.add_parser("export", help="write the network as a program: StableHLO for JAX, or ONNX")
    command.add_argument("target", metavar="OUT", type=Path, help="file: .stablehlo or .onnx")
    _add_model_options(command)
    command.set_defaults(run=_run_export)

    command = commands.add_parser("info", help="what is in a weights file")
    command.add_argument("file", metavar="FILE", help="weights in any supported format, or a bundled name")
    _add_hyperparameters(command)
    command.set_defaults(run=_run_info)

    command = commands.add_parser("demo", help="upscale real photographs and measure the result")
    command.add_argument("-o", "--output", type=Path, default=Path("build/demo"), help="folder (default: %(default)s)")
    command.add_argument(
        "--data", type=Path, action="append", default=[], metavar="DIR", help="further images, such as Set5; repeatable"
    )
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
        "--halved_source",
        type=Path,
        action="append",
        default=[],
        metavar="SOURCE",
        help="as --source, for camera JPEGs: shrunk by 2 first, which removes their blocks; repeatable",
    )
    command.add_argument(
        "--manual_dir", type=Path, metavar="DIR", help="for df2k: folder with Flickr2K; also archives of DIV2K"
    )
    command.add_argument(
        "--scale", type=int, nargs="+", default=[2, 3, 4], metavar="N", help="one set each (default: 2 3 4)"
    )
    command.add_argument("--skip_bad", action="store_true", help="leave out images that cannot be used")
    command.set_defaults(run=_run_prepare)

    command = commands.add_parser("web", help="a page in the browser: upscale a picture, compare, download")
    command.add_argument(
        "-m", "--model", action="append", default=[], help="beside the bundled ones, and chosen at first; repeatable"
    )
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=int, default=7860, help="(default: %(default)s)")
    command.add_argument("--max_pixels", type=int, metavar="N", help="refuse larger images (default: 2 million)")
    command.add_argument("--device", choices=DEVICES, help="where to compute (default: the fastest that JAX finds)")
    _add_hyperparameters(command)
    command.set_defaults(run=_run_web)
    command = commands.add_parser("doctor", help="examine this machine: versions, devices, kernels, caches, memory")
    command.add_argument("--device", choices=DEVICES, help="which to examine (default: the fastest that JAX finds)")
    command.set_defaults(run=_run_doctor)
    command = commands.add_parser("compile", help="compile for TPUs, without one: memory, time and network")
    add_compile_options(command)
    command.set_defaults(run=_run_compile)
    return parser


def _add_upscale_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--outscale", type=float, metavar="X", help="another factor than the model's: its output is resized")
    add("--suffix", metavar="S", help="what comes after NAME in a folder (default: _x and the factor)")
    add("--format", choices=_FORMATS, help="of the files in a folder (default: png)")
    add("--overwrite", action="store_true", help="make files in a folder again that are there already")
    add("--tile", type=_rows, metavar="N", help="strips of N rows for large images; 0: whole (default: by memory)")
    add("--tta", action="store_true", help="average over eight flips and transposes, in eight times the time")
    add("--flatten", action="store_true", help="lay transparent images on white")
    add("--8bit", action="store_true", dest="eight_bit", help="write 16-bit images in 8 bits")
    add("--max_pixels", type=int, default=MAX_PIXELS, metavar="N", help="refuse larger images (default: %(default)s)")
    add("--device", choices=DEVICES, help="where to compute (default: the fastest that JAX finds)")
    add("--quiet", action="store_true", help="print failures only")
    add("--json", type=Path, metavar="FILE", help="write what became of each file")


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-m",
        "--model",
        default=DEFAULT_MODEL,
        help="file, folder, bundled name or user/repo[@revision] (default: %(default)s)",
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


def _rows(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number of rows, or 0, not {text!r}")
    return int(text)


def _hyperparameters(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in UNREADABLE}
    return {name: value for name, value in given.items() if value is not None}


def _load_model(options: argparse.Namespace) -> SeemoRe:
    return load(options.model, **_hyperparameters(options))


def _run_upscale(options: argparse.Namespace) -> int:
    # What can be found out about the files is found out before the long computation.
    sources = find_sources(options.input, options.output)
    to_file = is_image_file(options.output)
    if to_file and options.format and options.output.suffix.lower() not in _FORMATS[options.format]:
        raise InputError(f"{options.output}: is not of the format {options.format} that --format asks for")
    if options.device:
        use_device(options.device)
    alone = len(sources) == 1 and sources[0].named
    if alone and read_header(sources[0].path) is None:
        read_picture(sources[0].path)  # complains before the model is loaded
    model = _load_model(options)
    suffix = f"_x{options.outscale or model.config.scale:g}" if options.suffix is None else options.suffix
    extension = _FORMATS[options.format or "png"][0]
    jobs = name_jobs(sources, options.output, suffix, extension)
    settings = Settings(
        outscale=options.outscale,
        ensemble=options.tta,
        flatten=options.flatten,
        eight_bit=options.eight_bit,
        tile=options.tile,
        overwrite=options.overwrite or to_file,  # a file that is named is meant
        max_pixels=options.max_pixels,
    )
    outcomes = _upscale_with_progress(model, jobs, settings, quiet=options.quiet, alone=alone)
    if options.json:
        _write_json(options.json, outcomes)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if alone and failed:
        raise InputError(str(failed[0].error))
    if not options.quiet:
        print(_described(outcomes[0]) if alone else f"{options.output}: {summary(outcomes)}")
    return 1 if failed else 0


def _upscale_with_progress(
    model: SeemoRe, jobs: Sequence[Job], settings: Settings, *, quiet: bool, alone: bool
) -> list[Outcome]:
    """Does the jobs behind progress bars, over the files and within a large one; failures appear as they happen."""
    outcomes = []
    hidden = True if quiet else None  # None: hidden where there is no terminal
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
        return f"{outcome.job.target}: is there already; --overwrite makes it again"
    return "{}: {}×{} → {}×{}".format(outcome.job.target, *outcome.before, *outcome.after)


def _write_json(path: Path, outcomes: Sequence[Outcome]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps([outcome.to_json() for outcome in outcomes], indent=2) + "\n")


def _run_routes(options: argparse.Namespace) -> None:
    from seemore_jax.evaluation.routes import Routes, routes_figure  # Matplotlib takes a while to import

    if options.output.suffix.lower() not in _PLOTS:
        raise InputError(f"{options.output}: not a format for a plot; use {', '.join(_PLOTS)}")
    pictures = [(source.path, read_picture(source.path)) for source in find_sources(options.input, options.output)]
    model = _load_model(options)
    routes = []
    for path, picture in pictures:
        image = to_rgb8(without_grey_alpha(picture.pixels))
        routes.append(Routes.of(path.name, image, routing(model, picture.pixels)))
    with replacing(options.output) as temporary:
        routes_figure(routes, model.config.ranks).savefig(temporary, dpi=150)
    print(f"{options.output}: {len(routes)} images, {model.config.num_layers} layers")


def _run_convert(options: argparse.Namespace) -> None:
    check_target(options.target)
    weights = read_weights(options.source, **_hyperparameters(options))
    ours = weights.source.parent == BUNDLED
    save(weights.to_model(), options.target, license="apache-2.0" if ours else "unknown")
    print(f"{options.source} → {options.target}")


def _run_export(options: argparse.Namespace) -> None:
    from seemore_jax import exporting  # jax.export takes a while to import

    exporting.check_target(options.target)
    exporting.export(_load_model(options), options.target)
    print(f"{options.model} → {options.target}")


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
    from seemore_jax.demo import run_demo  # Matplotlib takes a while to import

    run_demo(_load_model(options), options.model, options.output, options.data)


def _run_prepare(options: argparse.Namespace) -> None:
    from seemore_jax.data.preparation import prepare  # TFDS takes seconds to import

    prepare(
        options.name,
        options.data_dir,
        scales=options.scale,
        sources=options.source,
        halved_sources=options.halved_source,
        manual_dir=options.manual_dir,
        skip_bad=options.skip_bad,
    )


def _run_web(options: argparse.Namespace) -> None:
    from seemore_jax.web import MAX_PIXELS, load_models, serve  # Gradio takes seconds to import

    if options.device:
        use_device(options.device)
    models = load_models(options.model, **_hyperparameters(options))
    chosen = options.model[0] if options.model else DEFAULT_MODEL
    serve(models, chosen, options.host, options.port, options.max_pixels or MAX_PIXELS)


def _run_doctor(options: argparse.Namespace) -> int:
    from seemore_jax.doctor import examine

    if options.device:
        use_device(options.device)
    lines, problems = examine()
    print("\n".join(lines))
    print("\n".join(f"problem: {problem}" for problem in problems) or "no problem found")
    return 1 if problems else 0


def _run_compile(options: argparse.Namespace) -> None:
    from seemore_jax.ahead_of_time.report import run  # what trains takes seconds to import

    run(options)
