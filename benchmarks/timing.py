"""What the benchmarks share: calls that take turns, their medians and ratios, tables, the JSON file.

Peers take turns, one call of each per round, so that other load on the machine meets all of them.
"""

import argparse
import ctypes
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from seemore_jax.network.config import SCALES, VARIANTS
from seemore_jax.system.files import atomic_write

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets"),
    *("torch", "seemore", "onnx", "onnxruntime", "openvino", "libtpu"),
)

MODELS = tuple(f"{variant}-x{scale}" for variant in VARIANTS for scale in SCALES)

Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds of each call, by name; entry i of each list was taken in round i."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def fastest(self, names: Sequence[str]) -> str | None:
        """Of these names the one with the lowest median; None if there are none."""
        return min(names, key=self.median, default=None)

    def ratio(self, name: str, other: str) -> float:
        """Time of one over time of another: the median of the ratios within the rounds."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True))


def round_robin(calls: Mapping[str, Call], *, rounds: int, warm_up: int = 1, pause: float = 0.05) -> Timings:
    """Times each call once per round, every round in the same order.

    Args:
      calls: by name; each returns when its result is there.
      rounds: how often each is timed.
      warm_up: rounds before those, which are not timed.
      pause: seconds before each call: threads of the one before go on spinning for a while.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, rounds):
        for name, call in calls.items():
            time.sleep(pause)
            duration = seconds_of(call)
            if number >= 0:
                seconds[name].append(duration)
    return Timings(seconds)


def seconds_of(call: Call) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def fastest_setting(settings: Mapping[str, Call], calls: int = 2) -> str:
    """The name of the fastest of several ways to do the same, by the lowest of a few calls each."""
    if len(settings) == 1:
        return next(iter(settings))
    timings = round_robin(settings, rounds=calls)
    return min(settings, key=lambda name: min(timings.seconds[name]))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, all others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    rule = [f":{'-' * (width - 1)}" if not column else f"{'-' * (width - 1)}:" for column, width in enumerate(widths)]
    return "\n".join(_table_line(line, widths) for line in [lines[0], rule, *lines[1:]])


def _table_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if column else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def comparison(
    timings: Timings,
    peers: Sequence[str],
    unit: str,
    items: float = 1,
    columns: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """The table of some timings: median, extremes, `items` per second, and the ratio to the fastest peer's time.

    Args:
      timings: of the peers and others.
      peers: names of those that the others are compared with.
      unit: what is counted, such as "images".
      items: how many of them one call handles.
      columns: further columns: by title, the cells by name.
    """
    fastest = timings.fastest(peers)
    rows = []
    for name, seconds in timings.seconds.items():
        ratio = "" if fastest is None else f"{timings.ratio(name, fastest):.2f}"
        milliseconds = [1e3 * value for value in (timings.median(name), min(seconds), max(seconds))]
        rows.append([name, *map(_three_digits, milliseconds), _three_digits(items / timings.median(name)), ratio])
        rows[-1] += [cells.get(name, "") for cells in (columns or {}).values()]
    header = ["", "median ms", "lowest", "highest", f"{unit}/s", "time / fastest peer's", *(columns or {})]
    return table(header, rows)


def _three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}"


def summary(timings: Timings, peers: Sequence[str]) -> dict[str, Any]:
    """The same for the JSON file, with the seconds of every call."""
    fastest = timings.fastest(peers)
    return {
        "seconds": timings.seconds,
        "median_seconds": {name: timings.median(name) for name in timings.seconds},
        "fastest_peer": fastest,
        "ratio_to_fastest_peer": {
            name: None if fastest is None else timings.ratio(name, fastest) for name in timings.seconds
        },
    }


def peak_memory(call: Call) -> int | None:
    """Bytes of main memory that a call has in use at its peak, beyond those in use before it; None if unknown.

    The call should have been made before: what a first call compiles and keeps would count.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.is_file() and reset.is_file()):
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what was freed, but not yet given back, would hide what the call takes
    try:
        reset.write_text("5")  # sets the peak to the present
    except OSError:
        return None
    before = _kilobytes(status, "VmRSS")
    call()
    return 1024 * (_kilobytes(status, "VmHWM") - before)


def _kilobytes(status: Path, field: str) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


def environment() -> dict[str, Any]:
    """The device, the machine, the threads and the versions of the packages, for the JSON file."""
    device = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "device": device.device_kind if device.platform != "cpu" else _cpu_name(),
        "cores": usable_cores(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def usable_cores() -> int:
    """The cores that this process may use: as many threads as each peer gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def add_arguments(parser: argparse.ArgumentParser, rounds: int) -> None:
    """The options that every benchmark has."""
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="calls of each that are timed (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the measurements here")


def footer(seconds: float) -> str:
    """The line below a table: what it was measured with, and how long that took."""
    found = environment()
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    return f"Python {found['python']}, {versions}; {found['device']}, {found['cores']} cores, {seconds:.0f} s."


def write(path: Path | None, result: Mapping[str, Any]) -> None:
    """Writes the measurements and `environment` as JSON, if there is a path."""
    if path is None:
        return
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({**result, "environment": environment()}, indent=2) + "\n")
