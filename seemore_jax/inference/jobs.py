"""Which image files become which: files, patterns and folders to upscale, and the names of what they become.

photo.png            OUTPUT/photo_x4.png
"scans/*.tif"        OUTPUT/NAME_x4.png
photos/              OUTPUT/NAME_x4.png, OUTPUT/SUBFOLDER/NAME_x4.png: its subfolders are kept
photos/ scans/       OUTPUT/photos/NAME_x4.png, …: of several inputs, folders keep their names too
"""

import dataclasses
import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from seemore_jax.data.images import SUFFIXES, ImageError
from seemore_jax.system.errors import InputError

_LONGEST_NAME = 255  # bytes; of the usual file systems


@dataclasses.dataclass(frozen=True)
class Source:
    """A file to upscale.

    Attributes:
      path: the file.
      folder: where its output belongs, relative to the output folder.
      named: it was given by its own name, rather than found.
    """

    path: Path
    folder: Path = Path()
    named: bool = True


@dataclasses.dataclass(frozen=True)
class Job:
    """A file, what it becomes, and the reason if it cannot."""

    source: Path
    target: Path
    error: str | None = None


def is_image_file(output: Path) -> bool:
    """Whether an output argument names an image file rather than a folder.

    Raises:
      ImageError: it names one of a format that is not written.
    """
    suffix = output.suffix.lower()
    if output.is_dir() or not suffix:
        return False
    if suffix in SUFFIXES:
        return True
    Image.init()
    if suffix in Image.registered_extensions():
        raise ImageError(f"{output}: not an image format that can be written; use {', '.join(SUFFIXES)}")
    return False


def find_sources(inputs: Sequence[str], output: Path) -> list[Source]:
    """The files that the inputs stand for, each once, in the order of the inputs and of their names.

    Folders are searched for images by suffix; hidden files and the output folder are left out. What is named and
    missing is in the list: reading it says so.

    Raises:
      InputError: there is nothing to upscale.
    """
    sources: dict[Path, Source] = {}
    matches = [match for given in inputs for match in _matches(given)]
    for path, named in matches:
        folder = Path(path.resolve().name) if len(matches) > 1 else Path()
        for source in _in_folder(path, folder, output) if path.is_dir() else [Source(path, named=named)]:
            sources.setdefault(_real(source.path), source)
    if not sources:
        raise InputError(f"{', '.join(inputs)}: no images ({', '.join(SUFFIXES)})")
    return list(sources.values())


def _matches(given: str) -> list[tuple[Path, bool]]:
    """The files and folders that an input stands for, and whether it is their own name."""
    path = Path(given)
    found = [] if path.exists() else [Path(name) for name in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207
    if not found:
        return [(path, True)]
    # What the shell would make of it; but ** has already gone into the folders.
    return [(match, False) for match in found if _is_image(match) or (match.is_dir() and "**" not in given)]


def _in_folder(folder: Path, target: Path, output: Path) -> list[Source]:
    """The images below a folder, in the order of their paths, and where below `target` they belong."""
    left_out = _real(output)
    sources = []
    for place, subfolders, names in os.walk(folder):
        here = Path(place)
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and _real(here / name) != left_out
        )
        files = [here / name for name in sorted(names) if not name.startswith(".")]
        below = target / here.relative_to(folder)
        sources += [Source(file, below, named=False) for file in files if _is_image(file)]
    return sources


def _real(path: Path) -> Path:
    """The path without links, as far as they lead somewhere: `Path.resolve` raises for those that lead in a circle."""
    return Path(os.path.realpath(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def name_jobs(sources: Sequence[Source], output: Path, suffix: str, extension: str) -> list[Job]:
    """One job for each source: NAME + suffix + extension in the output folder, or `output` itself if it is a file.

    Files that differ only in their extension, as in a.png and a.jpg, keep it in the name: a_png_x4.png. Files that
    are what another one becomes were made by an earlier run into the folder that is searched, and are no sources.

    Raises:
      InputError: `output` is a file and there are several sources, or the suffix is no part of a name.
    """
    if suffix and Path("name" + suffix).name != "name" + suffix:
        raise InputError(f"--suffix is {suffix!r}, which cannot be part of a file's name")
    if is_image_file(output):
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


def _targets(sources: Sequence[Source], output: Path, suffix: str, extension: str) -> dict[Source, Path]:
    simple = {source: output / source.folder / f"{source.path.stem}{suffix}{extension}" for source in sources}
    count = Counter(simple.values())
    return {
        source: target
        if count[target] == 1
        else target.with_name(f"{source.path.stem}_{source.path.suffix[1:]}{suffix}{extension}")
        for source, target in simple.items()
    }


def _checked(targets: dict[Source, Path]) -> list[Job]:
    """The jobs, with an error where one would overwrite an input or another one's output."""
    inputs = {_real(source.path): source.path for source in targets}
    made: dict[Path, Path] = {}
    jobs = []
    for source, target in targets.items():
        error, place = None, _real(target)
        if len(os.fsencode(target.name)) > _LONGEST_NAME:
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
