"""The kernels for GPUs, compiled by NVRTC to PTX, which XLA launches without any code on the host.

The PTX is that of sm_80, the oldest architecture with these instructions: the driver translates it for the GPU that is
there, so that one text serves all of them. NVRTC is in the packages that `jax[cuda12]` and `jax[cuda13]` install.
"""

import ctypes
import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from seemore_jax.network.implementations.simt.variants import THREADS, Variant
from seemore_jax.system.files import atomic_write, user_cache

_FOLDER = Path(__file__).parent
# Blocks that a multiprocessor should hold at once: at most 128 registers for a thread.
_BLOCKS = 2
_OPTIONS = ("--gpu-architecture=compute_80", "--std=c++17", "-default-device")
# Of PTX. A newer NVRTC writes a newer number, which an older driver refuses; but the kernels need no more than 7.0.
_PTX_VERSION = "7.0"
_TARGET = "__gpu$xla.gpu.ptx"


def call(
    variant: Variant, grid: tuple[int, int, int], results: Sequence[jax.ShapeDtypeStruct]
) -> Callable[..., Sequence[Any]]:
    """Returns a function of JAX that launches a kernel. It can only be lowered for a GPU.

    Args:
      variant: the kernel.
      grid: numbers of blocks.
      results: shapes of the results.

    Raises:
      OSError: there is no NVRTC.
      RuntimeError: NVRTC fails.
    """
    sizes = [("grid", "xyz", grid), ("block", "xyz", (THREADS, 1, 1))]
    fields = [f'name = "{variant.name}"', 'kernel_type = "ptx"', f"kernel_data = {_quoted(ptx(variant))}"]
    fields += [f"{what}_{axis} = {n} : i32" for what, axes, three in sizes for axis, n in zip(axes, three, strict=True)]
    fields += [f"shared_mem_bytes = {variant.shared_bytes} : i32"]
    configuration = "{" + ", ".join(fields) + "}"
    return jax.ffi.ffi_call(_TARGET, tuple(results), custom_call_api_version=2, legacy_backend_config=configuration)


@functools.cache
def ptx(variant: Variant) -> str:
    """Returns the PTX of a kernel, from the user's cache or from NVRTC.

    Args:
      variant: the kernel.

    Raises:
      OSError: there is no NVRTC.
      RuntimeError: NVRTC fails.
    """
    text = source(variant)
    library = _nvrtc()
    headers = {path.name: path.read_text() for path in sorted(_FOLDER.glob("*.h"))}
    identity = "\n".join([text, *_OPTIONS, _PTX_VERSION, *headers.values(), _version(library)])
    path = user_cache("kernels") / f"gpu-{variant.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.ptx"
    try:
        return path.read_text()
    except FileNotFoundError:
        found = _compiled(library, text, headers)
    with atomic_write(path) as temporary:
        temporary.write_text(found)
    return found


def source(variant: Variant) -> str:
    """Returns the CUDA C++ of a kernel.

    Args:
      variant: the kernel.
    """
    macros = "".join(f"#define {name} {value}\n" for name, value in variant.definitions().items())
    header = (_FOLDER / f"{variant.name}.h").read_text()
    fields = re.search(r"struct Arrays \{\n(.*?)\n\};", header, re.DOTALL)
    assert fields is not None
    code = re.sub(r"//.*", "", fields[1])
    count = code.count("*") + (4 if "Positions" in code else 0)  # rows and columns, two arrays each
    names = [f"a{i}" for i in range(count)]
    parameters = ", ".join(f"void* {name}" for name in names)
    return f"""{macros}#include "{variant.name}.h"
extern "C" __global__ void __launch_bounds__({THREADS}, {_BLOCKS}) {variant.name}({parameters}) {{
  extern __shared__ float4 shared[];
  void* const all[] = {{{", ".join(names)}}};
  seemore_gpu::{variant.name}::Arrays arrays;
  static_assert(sizeof all == sizeof arrays, "the kernel has another number of arrays");
  memcpy(&arrays, all, sizeof arrays);
  const seemore_gpu::Block block = {{(int)blockIdx.x, (int)blockIdx.y, (int)blockIdx.z}};
  seemore_gpu::{variant.name}::run(arrays, reinterpret_cast<seemore_gpu::Value*>(shared), block);
}}
"""


@functools.cache
def unavailable_reason() -> str:
    """Returns why the kernels cannot be compiled for a GPU; an empty string if NVRTC can be loaded."""
    try:
        _nvrtc()
    except OSError as error:
        return str(error)
    return ""


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    """Loads the library NVRTC from NVIDIA's Python packages or, where there are none, from the system."""
    for path in [*installed("*/lib/libnvrtc.so.*"), "libnvrtc.so.12", "libnvrtc.so.13"]:
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    raise OSError("NVRTC is not installed; pip install 'jax[cuda12]' brings it")


def _version(library: ctypes.CDLL) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"NVRTC {major.value}.{minor.value}"


def installed(pattern: str) -> list[Path]:
    """Returns the paths of files in the packages that `jax[cuda12]` installs.

    Args:
      pattern: pattern of their paths in the folder of these packages.
    """
    try:
        import nvidia
    except ImportError:
        return []
    return [path for folder in nvidia.__path__ for path in sorted(Path(folder).glob(pattern))]


def _compiled(library: ctypes.CDLL, text: str, headers: dict[str, str]) -> str:
    """Compiles CUDA C++ to PTX."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()

    def array(texts: Sequence[str]) -> Any:
        return (ctypes.c_char_p * len(texts))(*(one.encode() for one in texts))

    def output(what: str) -> str:
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, buffer)
        return buffer.value.decode()

    names = list(headers)
    created = library.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), b"kernel.cu", len(names), array(list(headers.values())), array(names)
    )
    if created:
        raise RuntimeError(f"NVRTC cannot be used (error {created})")
    try:
        if library.nvrtcCompileProgram(program, len(_OPTIONS), array(_OPTIONS)):
            raise RuntimeError(f"NVRTC fails: {output('ProgramLog')[:2000]}")
        return re.sub(r"\.version \d+\.\d+", f".version {_PTX_VERSION}", output("PTX"), count=1)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _quoted(text: str) -> str:
    """Returns a text as a string of MLIR."""
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\{ord(c):02X}" for c in text) + '"'
