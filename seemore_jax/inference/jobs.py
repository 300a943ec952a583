"""Jobs: the image files to upscale, from files, patterns and folders, and the names of their outputs.

input                outputs
photo.png            OUTPUT/photo_x4.png
"scans/*.tif"        OUTPUT/NAME_x4.png
photos/              OUTPUT/NAME_x4.png, OUTPUT/SUBFOLDER/NAME_x4.png
photos/ scans/       OUTPUT/photos/NAME_x4.png, OUTPUT/scans/NAME_x4.png

Without an OUTPUT, the output of a file is beside it, and the outputs of photos/ are in photos_x4/. Files with several
images keep their format, so that they still hold all of them: animation.gif becomes animation_x4.gif.
"""

import dataclasses
import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from seemore_jax.data.formats import FORMATS, SUFFIXES, WRITTEN_SUFFIXES, ImageError, format_of, is_supported
from seemore_jax.data.images import read_header
from seemore_jax.inference.model_choice import ModelChoice
from seemore_jax.system.errors import InputError

_LONGEST_NAME = 255  # bytes, in the usual file systems


@dataclasses.dataclass(frozen=True)
class Source:
    """Image file to upscale.

    Attributes:
      path: path of the file.
      folder: folder of its output, relative to the output folder.
      named: whether the user gave the name of the file, not a pattern or a folder that contains it.
      root: the folder that the user gave and that contains the file; None if the user gave no folder.
      error: message of one line if the source is a folder that cannot be read.
    """

    path: Path
    folder: Path = Path()
    named: bool = True
    root: Path | None = None
    error: str | None = None


class Found(NamedTuple):
    """Files of the inputs.

    Attributes:
      sources: image files to upscale, each once, in the order of the inputs and of the names in them. Among them are
        files that the user named and that do not exist, and folders that cannot be read: the error is reported later.
      not_supported: other files in folders and of patterns, whose format cannot be read here.
    """

    sources: list[Source]
    not_supported: list[Path]


@dataclasses.dataclass(frozen=True)
class Job:
    """Upscaling of one file.

    Attributes:
      source: input file.
      target: output file.
      error: reason why the output cannot be written; None if there is no such reason.
      choice: the weights that upscale it, and why; None if nothing is known about them.
    """

    source: Path
    target: Path
    error: str | None = None
    choice: ModelChoice | None = None


def is_image_file(output: Path) -> bool:
    """Returns whether an output argument is the name of an image file, not of a folder.

    Args:
      output: output argument.

    Raises:
      ImageError: it is the name of an image file in a format that cannot be written.
    """
    suffix = output.suffix.lower()
    if output.is_dir() or not suffix:
        return False
    if suffix in WRITTEN_SUFFIXES:
        return True
    Image.init()
    if suffix in Image.registered_extensions() or format_of(output):
        raise ImageError(f"{output}: not an image format that can be written; use {', '.join(WRITTEN_SUFFIXES)}")
    return False


def find_sources(inputs: Sequence[str], output: Path | None) -> list[Source]:
    """Finds the image files of the inputs, as `find_files` does.

    Args:
      inputs: names of files, patterns with wildcards, or names of folders.
      output: output argument; None if there is none.

    Raises:
      InputError: there are no images.
    """
    return find_files(inputs, output).sources


def find_files(inputs: Sequence[str], output: Path | None) -> Found:
    """Finds the files of the inputs.

    Images in folders are found by their suffix. Hidden files and the output folder are left out.

    Args:
      inputs: names of files, patterns with wildcards, or names of folders.
      output: output argument; None if there is none.

    Returns:
      The images, and the files that are none.

    Raises:
      InputError: there are no images.
    """
    sources: dict[Path, Source] = {}
    others: dict[Path, Path] = {}
    matches = [match for given in inputs for match in _matches(given)]
    for path, named in matches:
        folder = Path(path.resolve().name) if len(matches) > 1 and output else Path()
        for source in _in_folder(path, folder, output) if path.is_dir() else [Source(path, named=named)]:
            if source.named or source.error or is_supported(source.path):
                sources.setdefault(_real(source.path), source)
            else:
                others.setdefault(_real(source.path), source.path)
    if not sources:
        count = f" among {len(others)} files" if others else ""
        raise InputError(f"{', '.join(inputs)}: no images{count} ({', '.join(SUFFIXES)})")
    return Found(list(sources.values()), list(others.values()))


def _matches(given: str) -> list[tuple[Path, bool]]:
    """Returns the files and folders of an input, and for each of them whether the input is its name."""
    path = Path(given)
    found = [] if path.exists() else [Path(name) for name in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207
    if not found:
        return [(path, True)]
    # A pattern selects files and folders, as in a shell. With **, the files in the folders are already in the list.
    return [(match, False) for match in found if not match.is_dir() or "**" not in given]


def _in_folder(folder: Path, target: Path, output: Path | None) -> list[Source]:
    """Returns the files in a folder and its subfolders, in the order of their paths; `target` is the output folder.

    Folders that cannot be read are in the list, with their error.
    """
    left_out = _real(output) if output else None
    sources: list[Source] = []

    def note(error: OSError) -> None:
        message = f"{error.filename}: the folder cannot be read: {error.strerror}"
        sources.append(Source(Path(error.filename), named=False, root=folder, error=message))

    for place, subfolders, names in os.walk(folder, onerror=note):
        here = Path(place)
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and _real(here / name) != left_out
        )
        below = target / here.relative_to(folder)
        files = (here / name for name in sorted(names) if not name.startswith("."))
        sources += [Source(file, below, named=False, root=folder) for file in files]
    return sources


def _real(path: Path) -> Path:
    """Returns the path without symbolic links. Unlike `Path.resolve`, it does not raise for a loop of links."""
    return Path(os.path.realpath(path))


def default_extension(path: Path) -> str:
    """Returns the extension of an output, if the user chose none.

    Args:
      path: input file.

    Returns:
      That of PNG. For a file with several images, that of the file if its format can be written.
    """
    format = format_of(path)
    header = read_header(path) if format is None or format.several else None
    if header is None or header.frames * header.pages == 1:
        return FORMATS["png"].suffixes[0]
    name = header.kind.split()[0]
    own = next((each for each in FORMATS.values() if each.written and each.name.upper() == name), FORMATS["png"])
    return path.suffix.lower() if own is format else own.suffixes[0]


def name_jobs(sources: Sequence[Source], output: Path | None, suffix: str, extension: str | None) -> list[Job]:
    """Makes one job for each source.

    An output is NAME + suffix + extension in the output folder. The outputs of files that differ only in their
    extension, such as a.png and a.jpg, contain the extension: a_png_x4.png. If an earlier run wrote its outputs to the
    folder that is now the input, these outputs are not sources.

    Args:
      sources: image files to upscale.
      output: output folder, or the output file if there is only one source; None puts outputs beside the inputs.
      suffix: suffix of the names, such as "_x4".
      extension: extension of the outputs, such as ".png"; None for that of `default_extension`.

    Returns:
      The jobs in the order of the sources. The error of a job says if its output would overwrite another file.

    Raises:
      InputError: `output` is a file and there are several sources, a file's name cannot contain the suffix, or there
        are neither an output nor a suffix.
    """
    if output is None and not suffix:
        raise InputError("--suffix is empty: without it, outputs need a place of their own, which -o names")
    if suffix and Path("name" + suffix).name != "name" + suffix:
        raise InputError(f"--suffix is {suffix!r}, which cannot be part of a file's name")
    if output and is_image_file(output):
        if len(sources) > 1:
            raise InputError(f"{output}: is one file, but there are {len(sources)} inputs; name a folder")
        targets = {sources[0]: output}
    else:
        targets = _targets(sources, output, suffix, extension)
        if suffix:
            made = {_real(target) for target in targets.values()}
            found = [source for source in sources if source.named or _real(source.path) not in made]
            targets = _targets(found, output, suffix, extension)
    return _checked(targets)


def _targets(sources: Sequence[Source], output: Path | None, suffix: str, extension: str | None) -> dict[Source, Path]:
    """Returns the output file of each source."""
    extensions = {source: extension or default_extension(source.path) for source in sources}
    simple = {
        source: _output_folder(source, output, suffix) / f"{source.path.stem}{suffix}{extensions[source]}"
        for source in sources
    }
    count = Counter(simple.values())
    return {
        source: target
        if count[target] == 1
        else target.with_name(f"{source.path.stem}_{source.path.suffix[1:]}{suffix}{extensions[source]}")
        for source, target in simple.items()
    }


def _output_folder(source: Source, output: Path | None, suffix: str) -> Path:
    """Returns the folder of a source's output: without `output`, beside the source or beside the folder it is from."""
    if output:
        return output / source.folder
    if source.root is None:
        return source.path.parent
    root = source.root if source.root.name else source.root.resolve()
    return root.with_name(root.name + suffix) / source.folder


def _checked(targets: dict[Source, Path]) -> list[Job]:
    """Returns the jobs; those that would overwrite an input or the output of another job have an error."""
    inputs = {_real(source.path): source.path for source in targets}
    made: dict[Path, Path] = {}
    jobs = []
    for source, target in targets.items():
        error, place = source.error, _real(target)
        if error:
            pass
        elif len(os.fsencode(target.name)) > _LONGEST_NAME:
            error = f"{source.path}: the name {target.name} would be too long; name one file, and its output, alone"
        elif place == _real(source.path):
            error = f"{target}: is the input itself; choose another output"
        elif place in inputs:
            error = f"{source.path}: would overwrite the input {inputs[place]}; choose another output"
        elif place in made:
            error = f"{source.path}: would overwrite {target}, which {made[place]} becomes; choose another output"
        else:
            made[place] = source.path
        jobs.append(Job(source.path, target, error))
    return jobs
