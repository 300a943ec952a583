"""C++ kernels for the CPU: compilation, cache, and registration with XLA.

The kernels are compiled on first use, on the machine that runs them, and kept in the user's cache, because one binary
cannot use the vector width of every CPU. Without a compiler, `available` returns False, and the plain implementation
computes the network, several times slower.
"""

import atexit
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path

import jax
import jaxlib

from seemore_jax.system.errors import InputError
from seemore_jax.system.files import atomic_write, user_cache

_LOG = logging.getLogger(__name__)
_FOLDER = Path(__file__).parent
# Flags of GCC and Clang. Loops with mathematical functions are vectorized only without errno and traps.
_FLAGS = [
    *("-std=gnu++17", "-O2", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
    *("-fPIC", "-shared", "-fvisibility=hidden"),
]
# Keys in /proc/cpuinfo that identify the CPU and its instructions, on x86, ARM, POWER and RISC-V.
_CPU_KEYS = (
    *("vendor_id", "cpu family", "model", "model name", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),
    *("cpu", "isa", "uarch"),
)
# The kernels of each source file, by the purpose for which they are compiled.
_RANK = ("convolution", "features_and_context", "low_rank_experts", "reduction")
_SPATIAL = ("gated_feed_forward", "spatial_enhancement")
KERNELS: dict[str, dict[str, Sequence[str]]] = {
    "always": {"rank_modulating": _RANK, "spatial_modulating": _SPATIAL},
    "strips": {"strips": ("global_statistics", "low_rank_experts_of_embedded")},
    "gradients": {
        "rank_modulating_backward": [f"{name}_backward" for name in _RANK],
        "spatial_modulating_backward": [f"{name}_backward" for name in _SPATIAL],
    },
}


@functools.cache
def available() -> bool:
    """Compiles the kernels of the forward pass if they are not in the cache, and registers them with XLA.

    Returns:
      Whether the kernels can be used: False if they cannot be compiled or loaded (there is a warning in the log), or if
      the environment variable `SEEMORE_NATIVE` is 0.
    """
    if switched_off():
        return False
    if reason := unavailable_reason():
        _LOG.warning(
            "the CPU kernels cannot be compiled or loaded, which makes the network several times slower; %s", reason
        )
        return False
    return True


def switched_off() -> bool:
    """Returns whether the user has switched the kernels off: the environment variable `SEEMORE_NATIVE` is 0."""
    return os.environ.get("SEEMORE_NATIVE") == "0"


@functools.cache
def unavailable_reason() -> str:
    """Returns why the kernels cannot be compiled or loaded, and what to do; an empty string if they can."""
    try:
        _register(KERNELS["always"])
    except (OSError, subprocess.SubprocessError) as error:
        return f"install a C++ compiler (g++ or clang++), or name one in CXX ({_detail(error)})"
    return ""


@functools.cache
def prepare(what: str) -> None:
    """Compiles and registers further kernels, which are compiled only if they are needed.

    Args:
      what: "strips", the kernels for images in strips, or "gradients", the backward kernels.

    Raises:
      InputError: the kernels cannot be compiled or loaded.
    """
    try:
        _register(KERNELS[what])
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(
            f"the CPU kernels for {what} cannot be compiled or loaded; SEEMORE_NATIVE=0 does without ({_detail(error)})"
        ) from error


def _register(files: Mapping[str, Sequence[str]]) -> None:
    """Compiles source files at the same time, and registers their kernels."""
    with futures.ThreadPoolExecutor() as pool:
        libraries = pool.map(lambda name: ctypes.CDLL(str(_compiled(name))), files)
        for kernels, library in zip(files.values(), libraries, strict=True):
            for kernel in kernels:
                name = f"seemore_{kernel}"
                jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")


def _detail(error: Exception) -> str:
    """Returns the message of an error or of the compiler, shortened to one line."""
    return " ".join((getattr(error, "stderr", None) or str(error)).split())[:200]


def _compiled(source: str) -> Path:
    """Returns the binary of a source file for this compiler, CPU and version of XLA; compiles it if necessary."""
    path = _cache() / f"{source}-{identity()}.so"
    digest = path.with_suffix(".sha256")
    if not _is_whole(path, digest):
        _LOG.warning("compiling %s.cc for this CPU: once on this machine, for some seconds", source)
        with atomic_write(path) as temporary:
            command = [*compiler(), *_FLAGS, "-isystem", jax.ffi.include_dir(), str(_FOLDER / f"{source}.cc")]
            subprocess.run([*command, "-o", str(temporary)], capture_output=True, text=True, check=True)
            with atomic_write(digest) as temporary_digest:
                temporary_digest.write_text(_digest(temporary))
    return path


def _is_whole(path: Path, digest: Path) -> bool:
    """Returns whether a binary has the digest that was written with it. To load a truncated one can end the process."""
    try:
        return digest.read_text() == _digest(path)
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compiler() -> list[str]:
    """Returns the command of the C++ compiler: the words of the environment variable `CXX`, by default `c++`."""
    return os.environ.get("CXX", "").split() or ["c++"]


def identity() -> str:
    """Returns a digest of the sources, the compiler, its flags, the CPU and the version of XLA."""
    version = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    sources = b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.[ch]*")))
    identity = "\n".join([version, *compiler(), _cpu(), jaxlib.__version__, *_FLAGS]).encode() + sources
    return hashlib.sha256(identity).hexdigest()[:16]


def _cache() -> Path:
    """Returns the folder of the binaries: in the user's cache, or temporary if this cannot be written."""
    try:
        return user_cache("kernels")
    except (OSError, RuntimeError):
        folder = tempfile.mkdtemp(prefix="seemore-jax-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)


def _cpu(information: Path = Path("/proc/cpuinfo")) -> str:
    """Returns a description of the CPU and its instructions, on which the compiler's choice of instructions depends."""
    try:
        lines = information.read_text(errors="replace").splitlines()
    except OSError:
        lines = [platform.processor(), _brand()]
    else:
        # Each line once, although there is one for each core.
        lines = sorted({line for line in lines if line.partition(":")[0].strip() in _CPU_KEYS})
    return "\n".join([platform.machine(), *lines])


def _brand() -> str:
    """Returns the name of the CPU on macOS; an empty string elsewhere."""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def cpu_name() -> str:
    """Returns the name of the CPU for messages."""
    names = (line.partition(":")[2].strip() for line in _cpu().splitlines() if line.startswith("model name"))
    return next(names, "") or _brand().strip() or platform.processor() or platform.machine()
