"""Writes the measurements with the machine and versions they were taken with, and ends a benchmark."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from seemore_jax.system.cores import usable_cores
from seemore_jax.system.files import atomic_write

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets"),
    *("torch", "seemore", "onnx", "onnxruntime", "openvino", "libtpu"),
)


def finish(path: Path | None, result: Mapping[str, Any], failures: Sequence[str] = ()) -> None:
    """Writes the measurements; if there are failures, prints them and ends this process with status 1."""
    write(path, result)
    if failures:
        sys.exit("\n".join(failures))


def write(path: Path | None, result: Mapping[str, Any]) -> None:
    """Writes the measurements and `environment` as JSON if there is a path."""
    if path is None:
        return
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({**result, "environment": environment()}, indent=2) + "\n")


def footer(seconds: float) -> str:
    """Returns the line below a table: versions, device, cores, and the seconds that the benchmark took."""
    found = environment()
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    return f"Python {found['python']}, {versions}; {found['device']}, {found['cores']} cores, {seconds:.0f} s."


def progress(line: str) -> None:
    """Prints a line about the progress on standard error, so that standard output holds only the results."""
    print(line, file=sys.stderr, flush=True)


def environment() -> dict[str, Any]:
    """Returns the device, the machine, its load, and the versions of the installed packages."""
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
