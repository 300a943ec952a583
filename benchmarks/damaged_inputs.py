"""Upscales a folder of damaged and odd files, and checks that each is upscaled right or refused in one line.

    python -m benchmarks.damaged_inputs [--count 200] [--seed 0] [--output FILE.json]

Beside the odd files (`tests.support.odd_images`) there are sound ones, all of which have to be upscaled. The command
has to end with status 1 and a summary that is right, to print nothing else, to leave no temporary file, and to use less
than 2 GB of memory. Exits with status 1 if anything else is observed. As root, the command runs without root's right
to read every file.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageSequence

import seemore_jax as sj
from benchmarks.harness import networks, options, processes, records, tables
from benchmarks.harness.processes import Ended
from tests.support.odd_images import Odd, good_images, odd_images

MOST_MEMORY = 2e9  # bytes
ENDS_WITHIN = 1200  # seconds
# The accepted difference of a value: in batches, sums are added in another order.
TOLERANCE = {np.dtype(np.uint8): 1, np.dtype(np.uint16): 4}
_LOSSLESS = (".png", ".tif", ".tiff")
TINY = sj.SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Says what became of a file: "upscaled", "refused" or "wrong", with the printed error or what is wrong."""

    odd: Odd
    result: str
    detail: str = ""


def in_own_process(arguments: Sequence[str]) -> Ended:
    """Runs `python -m seemore_jax`; as root, without the right to read every file."""
    command = [sys.executable, "-m", "seemore_jax", *arguments]
    if os.geteuid() == 0 and shutil.which("setpriv"):
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    return processes.run(command, timeout=ENDS_WITHIN)


def upscale_and_judge(
    odds: Sequence[Odd], place: Path, run: Callable[[Sequence[str]], Ended]
) -> tuple[Ended, list[Verdict], list[str]]:
    """Puts the files into a folder, upscales the folder, and judges the result of each file and of the whole run.

    Returns:
      How the command ended, a verdict on each file, and a line for everything else that was wrong.
    """
    source, output, report = place / "source", place / "output", place / "report.json"
    source.mkdir()
    paths = {str(odd.put(source)): odd for odd in odds}
    model = networks.random_network(TINY)
    sj.save(model, place / "tiny.safetensors")
    before = _listing(source)
    ended = run(
        ["upscale", str(source), "-o", str(output), "-m", str(place / "tiny.safetensors"), "--json", str(report)]
    )
    if not report.exists():
        return ended, [], [f"ended with status {ended.status}:\n{ended.stderr}"]
    entries = {entry["input"]: entry for entry in json.loads(report.read_text())}
    verdicts = [_verdict(odd, entries.get(path), model) for path, odd in paths.items()]
    wrong = _wrong_in_run(ended, entries, output)
    if set(entries) != set(paths):
        wrong.append(f"the report has {len(entries)} files, not {len(paths)}")
    if _listing(source) != before:
        wrong.append("the source folder changed")
    return ended, verdicts, wrong


def _wrong_in_run(ended: Ended, entries: dict[str, dict[str, Any]], output: Path) -> list[str]:
    """Returns a line for each thing that is wrong with how the command ended, what it printed and what it left."""
    made = {entry["output"] for entry in entries.values() if entry["status"] == "made"}
    failed = [entry["error"] for entry in entries.values() if entry["status"] == "failed"]
    summary = f"{output}: {len(made)} made, 0 skipped, {len(failed)} failed\n"
    lines = sorted(f"error: {_printed(error)}" for error in failed)
    peak = ended.peak or 0
    found = {
        f"it ended with status {ended.status}": ended.status != (1 if failed else 0),
        f"it printed {ended.stdout!r}, not {summary!r}": ended.stdout != summary,
        "the lines on standard error are not the reported errors": sorted(ended.stderr.splitlines()) != lines,
        "files are left over or missing": {str(path) for path in output.rglob("*") if path.is_file()} != made,
        f"it used {peak / 1e9:.1f} GB of memory": peak > MOST_MEMORY,
    }
    return [line for line, is_wrong in found.items() if is_wrong]


def _listing(folder: Path) -> list[tuple[str, int]]:
    """Returns the paths and sizes of everything in a folder."""
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))


def _printed(line: str) -> str:
    """Returns a line as it is printed: bytes of file names that are not UTF-8 are escaped."""
    return line.encode("utf-8", "backslashreplace").decode()


def _verdict(odd: Odd, entry: dict[str, Any] | None, model: sj.SeemoRe) -> Verdict:
    if entry is None:
        return Verdict(odd, "wrong", "it is not in the report")
    if entry["status"] != "made":
        error = entry["error"]
        if odd.frames or (odd.readings and not odd.may_refuse):
            return Verdict(odd, "wrong", f"refused: {error}")
        if "\n" in error or " ".join(odd.name.split()) not in error:
            return Verdict(odd, "wrong", f"the error is not one line, or it does not name the file: {error!r}")
        return Verdict(odd, "refused", error)
    if odd.frames:
        return _verdict_on_several(odd, Path(entry["output"]), model)
    try:
        found = np.asarray(imagecodecs.png_decode(Path(entry["output"]).read_bytes()))
    except imagecodecs.PngError as error:
        return Verdict(odd, "wrong", f"the output cannot be read: {error}")
    expected = [sj.upscale(model, reading) for reading in odd.readings]
    if any(_alike(found, image) for image in expected):
        return Verdict(odd, "upscaled")
    shapes = ", ".join(f"{image.dtype} {image.shape}" for image in expected)
    return Verdict(
        odd, "wrong", f"upscaled to {found.dtype} {found.shape} with wrong values; expected {shapes or 'nothing'}"
    )


def _verdict_on_several(odd: Odd, output: Path, model: sj.SeemoRe) -> Verdict:
    """Judges a file with several images. The values are judged where the format stores them without loss."""
    found = _frames_of(output)
    if len(found) != len(odd.frames):
        return Verdict(odd, "wrong", f"{len(found)} images of {len(odd.frames)}")
    for image, frame in zip(found, odd.frames, strict=True):
        expected = sj.upscale(model, frame)
        if image.shape != expected.shape or (output.suffix in _LOSSLESS and not _alike(image, expected)):
            return Verdict(odd, "wrong", f"an image is {image.dtype} {image.shape}, or has wrong values")
    return Verdict(odd, "upscaled")


def _frames_of(path: Path) -> list[np.ndarray]:
    """Returns the images of a file with several."""
    if path.suffix in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as file:
            return [page.asarray() for page in file.pages]
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def _alike(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    return int(np.abs(found.astype(np.int64) - expected.astype(np.int64)).max()) <= TOLERANCE[found.dtype]


def _table(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for kind in [*dict.fromkeys(verdict.odd.kind for verdict in verdicts), "all"]:
        results = [verdict.result for verdict in verdicts if kind in (verdict.odd.kind, "all")]
        counts = [results.count(result) for result in ("upscaled", "refused", "wrong")]
        rows.append([kind, *map(str, [len(results), *counts])])
    return tables.aligned(["kind", "files", "upscaled right", "refused", "wrong"], rows)


def main() -> None:
    chosen = _options()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        odds = [*good_images(chosen.seed), *odd_images(chosen.count, chosen.seed)]
        temporary = Path(name, "tmp")
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)
        ended, verdicts, wrong = upscale_and_judge(odds, Path(name), in_own_process)
        wrong += [f"left over: {path.name}" for path in temporary.iterdir()]
    wrong += [f"{verdict.odd.name!r}: {verdict.detail}" for verdict in verdicts if verdict.result == "wrong"]
    peak, seconds = (ended.peak or 0) / 1e9, round(time.perf_counter() - begin)
    print(_table(verdicts))
    print(f"\nSeed {chosen.seed}; status {ended.status}; at most {peak:.2f} GB of memory. {records.footer(seconds)}")
    files = [
        {"kind": v.odd.kind, "name": _printed(v.odd.name), "result": v.result, "detail": v.detail} for v in verdicts
    ]
    result = {"files": files, "violations": wrong, "peak_bytes": ended.peak, "seed": chosen.seed}
    records.finish(chosen.output, result, [_printed(line) for line in wrong])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Upscales a folder of damaged and odd files.")
    parser.add_argument("--count", type=int, default=200, help="number of odd files (default: %(default)s)")
    options.add_seed(parser, determines="the content of the files")
    options.add_output(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
