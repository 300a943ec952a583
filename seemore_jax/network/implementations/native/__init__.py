"""C++ kernels for the CPU: the choice of a library, and its registration with XLA.

The installation compiles the kernels (CMakeLists.txt), once for each level of vector instructions, into the folder
`compiled` of the installed package. The library of the fastest level that the CPU can run is loaded. Without one,
`available` returns False, and the plain implementation computes the network, several times slower.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import subprocess
from pathlib import Path

import jax

_LOG = logging.getLogger(__name__)
_FOLDER = Path(__file__).parent
_IN_PACKAGE = "seemore_jax/network/implementations/native/compiled"
# The levels of each kind of CPU, as CMakeLists.txt names them, from the slowest, which every CPU of the kind can run.
LEVELS = {"x86-64": ("x86-64-v2", "x86-64-v3", "x86-64-v4"), "ARM": ("armv8-a",), "other": ("native",)}
_FORWARD = (
    *("convolution", "features_and_context", "low_rank_experts", "reduction"),
    *("gated_feed_forward", "spatial_enhancement"),
)
KERNELS = (
    *_FORWARD,
    *(f"{name}_backward" for name in _FORWARD),
    *("global_statistics", "low_rank_experts_of_embedded"),  # for images in strips
)


@functools.cache
def available() -> bool:
    """Loads the kernels and registers them with XLA.

    Returns:
      Whether the kernels can be used: False if they are missing or cannot be loaded (there is a warning in the log), or
      if the environment variable `SEEMORE_NATIVE` is 0.
    """
    if switched_off():
        return False
    if reason := unavailable_reason():
        _LOG.warning("there are no CPU kernels, which makes the network several times slower; %s", reason)
        return False
    return True


def switched_off() -> bool:
    """Returns whether the user has switched the kernels off: the environment variable `SEEMORE_NATIVE` is 0."""
    return os.environ.get("SEEMORE_NATIVE") == "0"


@functools.cache
def unavailable_reason() -> str:
    """Returns why the kernels cannot be loaded, and what to do; an empty string if they are loaded."""
    try:
        library = _library()
        for kernel in KERNELS:
            handler = jax.ffi.pycapsule(getattr(library, f"seemore_{kernel}"))
            jax.ffi.register_ffi_target(f"seemore_{kernel}", handler, platform="cpu")
    except (OSError, AttributeError) as error:
        return " ".join(str(error).split())[:300]
    return ""


@functools.cache
def identity() -> str:
    """Returns the level and the digest of the loaded library; an empty string if there is none."""
    return "" if unavailable_reason() else f"{level()} {_text(_library(), 'seemore_sources')}"


@functools.cache
def level() -> str:
    """Returns the level of vector instructions whose library is loaded, such as "x86-64-v3".

    It is the fastest that the CPU can run, or the one that the environment variable `SEEMORE_NATIVE` names.

    Raises:
      OSError: there are no libraries, the CPU can run none of them, or not the one that the user has named.
    """
    built = [name for levels in LEVELS.values() for name in levels if _path(name).is_file()]
    if not built:
        remedy = "install seemore-jax on a machine with a C++ compiler (g++ or clang++), or from a wheel"
        raise OSError(f"they were not compiled when seemore-jax was installed: {remedy}")
    best = _text(_opened(built[0]), "seemore_level")
    chosen = os.environ.get("SEEMORE_NATIVE") or best
    if best not in built:
        raise OSError(f"this CPU lacks instructions of {built[0]}, for which they are compiled")
    runnable = built[: built.index(best) + 1]
    if chosen not in runnable:
        raise OSError(f"SEEMORE_NATIVE={chosen} is none of 0, {', '.join(runnable)}")
    return chosen


def _library() -> ctypes.CDLL:
    library = _opened(level())
    sources = sorted(path for pattern in ("*.cc", "*.h") for path in _FOLDER.glob(pattern))
    if sources and _text(library, "seemore_sources") != _digest(sources):  # a wheel has no sources
        raise OSError(
            "they were compiled from other sources than these: install seemore-jax again, or run make kernels"
        )
    return library


def _opened(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(_path(name)))


def _path(name: str) -> Path:
    return _compiled_folder() / f"kernels-{name}.so"


@functools.cache
def _compiled_folder() -> Path:
    """Returns the folder of the libraries: beside this file or, if there is none, that of the installed package.

    In a copy of the repository, Python imports the package from there, and `pip install .` has put the libraries into
    the environment. What the installation leaves in the repository counts as an installed package, too.
    """
    here = _FOLDER / "compiled"
    if here.is_dir():
        return here
    installed = importlib.metadata.distributions(name="seemore-jax")
    folders = (Path(str(distribution.locate_file(_IN_PACKAGE))) for distribution in installed)
    return next((folder for folder in folders if folder.is_dir()), here)


def _text(library: ctypes.CDLL, function: str) -> str:
    """Returns the text that a function of a library returns."""
    call = getattr(library, function)
    call.restype = ctypes.c_char_p
    text: bytes = call()
    return text.decode()


def _digest(sources: list[Path]) -> str:
    """Returns the digest of the sources' digests, as CMakeLists.txt computes it."""
    digests = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in sources)
    return hashlib.sha256(digests.encode()).hexdigest()


@functools.cache
def cpu_name(information: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the name of the CPU for messages and for the verdicts of the self-check.

    Args:
      information: the file in which Linux describes the CPU.
    """
    try:
        lines = information.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    part = f"ARM {fields['CPU implementer']} {fields.get('CPU part', '')}" if "CPU implementer" in fields else ""
    return fields.get("model name") or part or _brand() or platform.processor() or platform.machine()


def _brand() -> str:
    """Returns the name of the CPU on macOS; an empty string elsewhere."""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
