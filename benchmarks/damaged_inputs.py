"""A folder of damaged and odd files to `upscale`: is each upscaled right, or refused in one line?

    python -m benchmarks.damaged_inputs [--count 200] [--seed 0] [--output FILE.json]

Beside the odd files (`benchmarks.odd_images`) lie sound ones, all of which have to be made. The command has to end with
status 1, a summary that is right and nothing else on its terminal, to leave no temporary file, and to stay below 2 GB.
Exits with status 1 if anything else is seen. As root, it gives up root's right to read every file.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from flax import nnx

import seemore_jax as sj
from benchmarks import timing
from benchmarks.odd_images import Odd, good_images, odd_images

MOST_MEMORY = 2e9  # bytes
ENDS_WITHIN = 1200  # seconds
# How far a value may be off where images are upscaled in batches: the order of sums.
TOLERANCE = {np.dtype(np.uint8): 1, np.dtype(np.uint16): 4}
TINY = sj.SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=1)


@dataclasses.dataclass(frozen=True)
class Call:
    """How the command ended, and what it wrote; `peak` is its largest resident memory in bytes, if measured."""

    status: int
    stdout: str
    stderr: str
    peak: int | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a file: "upscaled", "refused" or "wrong", and the line that says so or what is wrong."""

    odd: Odd
    result: str
    detail: str = ""


def in_process_of_its_own(arguments: Sequence[str]) -> Call:
    """Runs `python -m seemore_jax`, with a folder for temporary files that has to be empty afterwards."""
    command = [sys.executable, "-m", "seemore_jax", *arguments]
    if os.geteuid() == 0 and shutil.which("setpriv"):
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        deadline = time.monotonic() + ENDS_WITHIN
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.1)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        stdout.seek(0)
        stderr.seek(0)
        return Call(process.returncode, stdout.read().decode(), stderr.read().decode(), ended[2].ru_maxrss * 1024)


def upscale_and_judge(
    odds: Sequence[Odd], place: Path, run: Callable[[Sequence[str]], Call]
) -> tuple[Call, list[Verdict], list[str]]:
    """Puts the files into a folder, upscales it, and judges what became of each, and of the run as a whole.

    Returns:
      How the command ended, a verdict on each file, and what was wrong with the rest, a line each.
    """
    source, output, report = place / "source", place / "output", place / "report.json"
    source.mkdir()
    paths = {str(odd.put(source)): odd for odd in odds}
    model = sj.SeemoRe(TINY, rngs=nnx.Rngs(0))
    sj.save(model, place / "tiny.safetensors")
    before = _listing(source)
    call = run(
        ["upscale", str(source), "-o", str(output), "-m", str(place / "tiny.safetensors"), "--json", str(report)]
    )
    if not report.exists():
        return call, [], [f"ended with status {call.status}:\n{call.stderr}"]
    entries = {entry["input"]: entry for entry in json.loads(report.read_text())}
    verdicts = [_verdict(odd, entries.get(path), model) for path, odd in paths.items()]

    made = {entry["output"] for entry in entries.values() if entry["status"] == "made"}
    failed = [entry["error"] for entry in entries.values() if entry["status"] == "failed"]
    summary = f"{output}: {len(made)} made, 0 skipped, {len(failed)} failed\n"
    lines = sorted(f"error: {_printed(error)}" for error in failed)
    wrong = {
        f"status {call.status}": call.status != (1 if failed else 0),
        f"{len(entries)} files in the report, not {len(paths)}": set(entries) != set(paths),
        f"it printed {call.stdout!r}, not {summary!r}": call.stdout != summary,
        "the lines on standard error are not the reported errors": sorted(call.stderr.splitlines()) != lines,
        "the source folder changed": _listing(source) != before,
        "files are left over or missing": {str(path) for path in output.rglob("*") if path.is_file()} != made,
        f"{(call.peak or 0) / 1e9:.1f} GB of memory": (call.peak or 0) > MOST_MEMORY,
    }
    return call, verdicts, [line for line, is_so in wrong.items() if is_so]


def _listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))


def _printed(line: str) -> str:
    """As a terminal gets it: names that are no Unicode are escaped."""
    return line.encode("utf-8", "backslashreplace").decode()


def _verdict(odd: Odd, entry: dict[str, Any] | None, model: sj.SeemoRe) -> Verdict:
    if entry is None:
        return Verdict(odd, "wrong", "not in the report")
    if entry["status"] != "made":
        error = entry["error"]
        if odd.readings and not odd.may_refuse:
            return Verdict(odd, "wrong", f"refused: {error}")
        if "\n" in error or " ".join(odd.name.split()) not in error:
            return Verdict(odd, "wrong", f"not one line, or it does not name the file: {error!r}")
        return Verdict(odd, "refused", error)
    try:
        found = np.asarray(imagecodecs.png_decode(Path(entry["output"]).read_bytes()))
    except imagecodecs.PngError as error:
        return Verdict(odd, "wrong", f"what was written cannot be read: {error}")
    expected = [sj.upscale(model, reading) for reading in odd.readings]
    if any(_alike(found, image) for image in expected):
        return Verdict(odd, "upscaled")
    shapes = ", ".join(f"{image.dtype} {image.shape}" for image in expected)
    return Verdict(
        odd, "wrong", f"upscaled to {found.dtype} {found.shape} of other values; expected {shapes or 'nothing'}"
    )


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
    return timing.table(["kind", "files", "upscaled right", "refused", "wrong"], rows)


def main() -> None:
    options = _options()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        odds = [*good_images(options.seed), *odd_images(options.count, options.seed)]
        temporary = Path(name, "tmp")
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)
        call, verdicts, wrong = upscale_and_judge(odds, Path(name), in_process_of_its_own)
        wrong += [f"left over: {path.name}" for path in temporary.iterdir()]
    wrong += [f"{verdict.odd.name!r}: {verdict.detail}" for verdict in verdicts if verdict.result == "wrong"]
    peak, seconds = (call.peak or 0) / 1e9, round(time.perf_counter() - begin)
    print(_table(verdicts))
    print(f"\nSeed {options.seed}; status {call.status}; at most {peak:.2f} GB of memory. " + timing.footer(seconds))
    files = [
        {"kind": v.odd.kind, "name": _printed(v.odd.name), "result": v.result, "detail": v.detail} for v in verdicts
    ]
    timing.write(options.output, {"files": files, "violations": wrong, "peak_bytes": call.peak, "seed": options.seed})
    if wrong:
        sys.exit(_printed("\n".join(wrong)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Upscales a folder of damaged and odd files.")
    parser.add_argument("--count", type=int, default=200, help="odd files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their content (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write what became of each file, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
