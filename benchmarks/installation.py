"""Measures the size of an installation in MB, and the time of the import in seconds, for the core and each extra.

    python -m benchmarks.installation --constraint constraints/python3.11.txt --output FILE.json

Each row is a new virtual environment, into which pip installs this checkout. "JAX, Flax and codecs" has only these
packages, without which no image can be upscaled.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from benchmarks.harness import options, processes, records, tables

_ROOT = Path(__file__).parents[1]
_FLOOR = "JAX, Flax and codecs"
_INSTALLATIONS = {
    _FLOOR: ["jax", "flax", "pillow", "imagecodecs", "tifffile"],
    "core": [str(_ROOT)],
    **{extra: [f"{_ROOT}[{extra}]"] for extra in ("eval", "train", "all")},
}


def main() -> None:
    chosen = _options()
    results = {name: _measure(name, chosen) for name in chosen.only}
    rows = [
        [name, f"{found['megabytes']:.0f}", f"{found['import']:.2f}" if "import" in found else "–"]
        for name, found in results.items()
    ]
    print(tables.compact(["installed", "MB", "import, s"], rows, "lrr"))
    records.finish(chosen.output, {"installations": results})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures the size of an installation and the time of its import.")
    parser.add_argument("--constraint", type=Path, required=True, help="the pinned versions")
    parser.add_argument("--only", nargs="+", choices=_INSTALLATIONS, default=list(_INSTALLATIONS), metavar="NAME")
    options.add_rounds(parser, default=5)
    options.add_output(parser)
    return parser.parse_args()


def _measure(name: str, chosen: argparse.Namespace) -> dict[str, float]:
    """Installs into a new environment; returns its megabytes, and the median seconds of `import seemore_jax`."""
    records.progress(f"installing {name}")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        empty = _megabytes(Path(folder))
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", str(chosen.constraint.absolute())]
        subprocess.run([*install, *_INSTALLATIONS[name]], check=True, stdout=sys.stderr)
        found = {"megabytes": _megabytes(Path(folder)) - empty}
        if name != _FLOOR:
            # `import seemore_jax` alone imports almost nothing: its names import JAX and Flax when they are used.
            command = [python, "-c", "import seemore_jax as sj; sj.load, sj.upscale"]
            processes.run(command)  # Python compiles the modules
            found["import"] = statistics.median(processes.run(command).seconds for _ in range(chosen.rounds))
        return found


def _megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


if __name__ == "__main__":
    main()
