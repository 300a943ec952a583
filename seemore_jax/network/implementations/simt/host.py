"""The kernels for GPUs, compiled by a C++ compiler, as functions of a CPU: they compute the same, slowly."""

import ctypes
import functools
import hashlib
import os
import subprocess
from pathlib import Path

import jax
import jaxlib

from seemore_jax.network.implementations import native
from seemore_jax.network.implementations.simt.variants import Variant
from seemore_jax.system.files import atomic_write, user_cache

FOLDER = Path(__file__).parent
# As for the kernels of the CPU (`CMakeLists.txt`), for this CPU alone.
FLAGS = ("-std=gnu++17", "-O2", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Werror")


def command(variant: Variant) -> list[str]:
    """Returns the start of a compiler's command for a kernel: the compiler, its macros, and where headers are.

    Args:
      variant: the kernel.
    """
    macros = [f"-D{name}={value}" for name, value in variant.definitions().items()]
    return [*_compiler(), *macros, "-I", str(FOLDER), "-isystem", jax.ffi.include_dir()]


@functools.cache
def registered(variant: Variant) -> str:
    """Compiles a kernel, if it is not in the user's cache, and registers it with XLA.

    Args:
      variant: the kernel.

    Returns:
      The name of the function, for `jax.ffi.ffi_call`.

    Raises:
      OSError: there is no compiler.
      subprocess.CalledProcessError: it fails.
    """
    name = f"seemore_gpu_{variant.name}_{_identity(variant)}"
    path = user_cache("kernels") / f"{name}.so"
    if not path.exists():
        with atomic_write(path) as temporary:
            arguments = [*command(variant), *FLAGS, "-fPIC", "-shared", str(FOLDER / "host.cc"), "-o", str(temporary)]
            subprocess.run(arguments, capture_output=True, text=True, check=True)
    function = ctypes.CDLL(str(path)).seemore_gpu_kernel
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
    return name


def unavailable_reason() -> str:
    """Returns why the kernels cannot be compiled for a CPU; an empty string if there is a compiler."""
    try:
        _compiler_version()
    except (OSError, subprocess.SubprocessError) as error:
        return f"there is no C++ compiler ({error})"
    return ""


def _compiler() -> list[str]:
    """Returns the command of the C++ compiler: the words of the environment variable `CXX`, by default `c++`."""
    return os.environ.get("CXX", "").split() or ["c++"]


def _compiler_version() -> str:
    return subprocess.run([*_compiler(), "--version"], capture_output=True, text=True, check=True).stdout


def _identity(variant: Variant) -> str:
    """Returns a digest of everything that the binary depends on."""
    sources = b"".join(path.read_bytes() for path in sorted([*FOLDER.glob("*.h"), *FOLDER.glob("*.cc")]))
    machine = f"{_compiler()} {_compiler_version()} {native.cpu_name()} {native.identity()} {jaxlib.__version__}"
    text = f"{variant} {variant.definitions()} {FLAGS} {machine}"
    return hashlib.sha256(text.encode() + sources).hexdigest()[:16]
