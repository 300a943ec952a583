"""Kernels for the CPU in C++: compiled on the machine that runs them, on first use, and kept in a cache.

A compiled file could not use the vector width of every CPU. Where there is no compiler, `available` is False and
the network is computed without them: the same values, several times slower.
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
from pathlib import Path

import jax
import jaxlib

from seemore_jax.files import replacing, user_cache

_LOG = logging.getLogger(__name__)
_FOLDER = Path(__file__).parent
# GCC's and Clang's names. Errno and traps of mathematical functions would forbid vectors.
_FLAGS = [
    *("-std=gnu++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
    *("-fPIC", "-shared", "-fvisibility=hidden"),
]
# Each also has a gradient, called NAME_backward.
KERNELS = (
    "gated_feed_forward",
    "spatial_enhancement",
    "convolution",
    "features_and_context",
    "low_rank_experts",
    "reduction",
)


@functools.cache
def available() -> bool:
    """Compiles the kernels, unless an earlier process did, and registers them with XLA; False if that fails.

    `SEEMORE_NATIVE=0` in the environment leaves them out.
    """
    if os.environ.get("SEEMORE_NATIVE") == "0":
        return False
    try:
        library = ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        _LOG.warning(
            "the CPU kernels cannot be compiled, which makes the network several times slower; "
            "install a C++ compiler (g++ or clang++), or name one in CXX (%s)",
            " ".join(detail.split())[:200],
        )
        return False
    for kernel in KERNELS:
        for name in (kernel, f"{kernel}_backward"):
            handler = jax.ffi.pycapsule(getattr(library, f"seemore_{name}"))
            jax.ffi.register_ffi_target(f"seemore_{name}", handler, platform="cpu")
    return True


def _compiled() -> Path:
    """The compiled kernels for this source, compiler, CPU and version of XLA."""
    compiler = os.environ.get("CXX", "c++").split()
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    sources = b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.[ch]*")))
    identity = "\n".join([version, _cpu(), jaxlib.__version__, *_FLAGS]).encode() + sources
    path = _cache() / f"kernels-{hashlib.sha256(identity).hexdigest()[:16]}.so"
    if not path.exists():
        _LOG.warning("compiling the CPU kernels: once on this machine, for about half a minute")
        with replacing(path) as temporary:
            command = [*compiler, *_FLAGS, "-isystem", jax.ffi.include_dir(), str(_FOLDER / "kernels.cc")]
            subprocess.run([*command, "-o", str(temporary)], capture_output=True, text=True, check=True)
    return path


def _cache() -> Path:
    try:
        return user_cache("kernels")
    except (OSError, RuntimeError):
        folder = tempfile.mkdtemp(prefix="seemore-jax-")  # for this process alone
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)


def _cpu() -> str:
    """What the compiler's choice of instructions depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags"))
