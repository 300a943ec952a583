"""If these tests fail, a wrong call of a kernel, a damaged file or a lack of memory can end the process."""

import ctypes
import functools
import itertools
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from seemore_jax.network.implementations import native
from seemore_jax.network.implementations.cpu_operations import KernelRegion
from tests.support.needs import NEEDS

needs_kernels = pytest.mark.needs("compiler")

SIZES = {"n": 2, "h": 8, "c": 3, "p": 16, "o": 5, "k": 3, "r": 4, "s": 2}
REGION = (8, 13, 0, 8, 2, 0, 8, 0, 8)  # the values of `KernelRegion._fields`
Buffers = list[tuple[str, list[str]]]  # name and axes


def signatures() -> dict[str, tuple[Buffers, Buffers]]:
    """Returns each kernel's inputs after the region, and its outputs, as its source file declares them."""
    sources = "".join(path.read_text() for path in sorted(Path(native.__file__).parent.glob("*.cc")))
    declared = re.findall(r"^SEEMORE_KERNEL\((\w+),(.*?)\);", sources, re.DOTALL | re.MULTILINE)

    def buffers(text: str) -> Buffers:
        return [(name, axes.split()) for name, axes in re.findall(r"(\w+)\[(.*?)\]", text)]

    joined = {name: re.sub(r'"\s*"', "", text) for name, text in declared}  # C++ concatenates adjacent strings
    halves = {name: re.findall(r'"(.*?)"', text) for name, text in joined.items()}
    return {name: (buffers(inputs), buffers(outputs)) for name, (inputs, outputs) in halves.items()}


SIGNATURES = signatures()


def size(axis: str) -> int:
    number, letter, other = re.fullmatch(r"(\d*)([a-z]?)(\S*)", axis).groups()  # type: ignore[union-attr]
    value = int(number or 1) * SIZES.get(letter, 1)
    if other.startswith("/"):
        value //= int(other[1:])
    return value + SIZES[other[1:]] if other.startswith("+") else value


def shapes(buffers: Buffers) -> list[tuple[Any, ...]]:
    return [(*map(size, axes), jnp.float32) for _, axes in buffers]


def call(
    kernel: str, inputs: Sequence[tuple[Any, ...]], outputs: Sequence[tuple[Any, ...]], region: Any = REGION
) -> None:
    arrays = [jnp.ones(shape, dtype) for *shape, dtype in inputs]
    if region is not None:
        arrays.insert(0, jnp.asarray(region, jnp.int32) if isinstance(region, tuple) else region)
    jax.block_until_ready(program(kernel, tuple(outputs))(*arrays))


@functools.cache
def program(kernel: str, outputs: tuple[tuple[Any, ...], ...]) -> Callable[..., Any]:
    results = tuple(jax.ShapeDtypeStruct(tuple(shape), dtype) for *shape, dtype in outputs)
    return jax.jit(jax.ffi.ffi_call(f"seemore_{kernel}", results))


def refused(kernel: str, buffer: str, *arguments: Any, **options: Any) -> str:
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError)) as error:  # JAX raises one or the other
        call(kernel, *arguments, **options)
    message = str(error.value)
    assert re.search(rf"INVALID_ARGUMENT: seemore_{kernel}: {buffer} .+", message), message
    assert "\n" not in message
    return message


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    if not NEEDS["compiler"].present():  # some tests need no compiler
        return
    assert native.available()
    native.prepare("strips")
    native.prepare("gradients")


def wrong_buffers(buffers: Buffers) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yields each buffer with a wrong type, a wrong number of axes, and a wrong size of an axis whose size is known.

    tests/native tests all axes. Here, each wrong buffer is a program to compile.
    """
    known: set[str] = set()
    for i, ((_, axes), (*shape, dtype)) in enumerate(zip(buffers, shapes(buffers), strict=True)):
        yield i, (*shape, jnp.bfloat16 if i % 2 else jnp.int32)
        yield i, (*shape, 1, dtype)
        for j in [j for j, axis in enumerate(axes) if axis in known or not axis.isalpha()][-1:]:
            yield i, (*shape[:j], shape[j] + 1, *shape[j + 1 :], dtype)
        known.update(axes)


@needs_kernels
@pytest.mark.parametrize("kernel", SIGNATURES)
def test_each_wrong_buffer_is_named(kernel: str) -> None:
    inputs, outputs = SIGNATURES[kernel]
    given, results = shapes(inputs), shapes(outputs)
    call(kernel, given, results)
    for i, wrong in wrong_buffers([*inputs, *outputs]):
        if (j := i - len(inputs)) < 0:
            refused(kernel, inputs[i][0], [*given[:i], wrong, *given[i + 1 :]], results)
        else:
            refused(kernel, outputs[j][0], given, [*results[:j], wrong, *results[j + 1 :]])


@needs_kernels
@pytest.mark.parametrize("kernel", SIGNATURES)
def test_missing_buffers_are_named_and_more_refused(kernel: str) -> None:
    inputs, outputs = SIGNATURES[kernel]
    given, results = shapes(inputs), shapes(outputs)
    refused(kernel, "region", [], results, region=None)
    for i, (name, _) in enumerate(inputs):
        refused(kernel, name, given[:i], results)
    for i, (name, _) in enumerate(outputs[1:], 1):
        refused(kernel, name, given, results[:i])
    refused(kernel, inputs[-1][0], [*given, given[-1]], results)
    refused(kernel, outputs[-1][0], given, [*results, results[-1]])


@needs_kernels
@pytest.mark.parametrize("kernel", SIGNATURES)
def test_a_region_beyond_the_arrays_is_refused(kernel: str) -> None:
    inputs, outputs = map(shapes, SIGNATURES[kernel])
    for array in (jnp.zeros(9), jnp.zeros(8, jnp.int32), jnp.zeros((1, 9), jnp.int32), jnp.int32(3)):
        refused(kernel, "region", inputs, outputs, region=array)
    wrong = {
        "height": (0, 9, -1),
        "width": (0, 17),
        "first_row": (-1, 1, 2**31 - 1),
        "image_height": (0, 7),
        "summary_rows": (-1, *((0, 3) if any(axes[1:2] == ["s"] for _, axes in SIGNATURES[kernel][0]) else ())),
        "begin": (-1, 9),
        "end": (-1, 9),
        "compute_begin": (-1, 9),
        "compute_end": (-1, 9),
    }
    for field, value in ((field, value) for field, values in wrong.items() for value in values):
        region = tuple(
            value if name == field else known for name, known in zip(KernelRegion._fields, REGION, strict=True)
        )
        message = refused(kernel, "region", inputs, outputs, region=region)
        assert field in message
    if kernel == "global_statistics":
        refused(kernel, "region", inputs, outputs, region=(*REGION[:7], 2, 8))


@needs_kernels
def test_the_filter_and_the_pitch_have_to_be_what_the_kernels_have_room_for() -> None:
    inputs, outputs = map(shapes, SIGNATURES["spatial_enhancement"])
    for length in (4, 35):
        message = refused("spatial_enhancement", "row", [*inputs[:3], (length, 3, jnp.float32), *inputs[4:]], outputs)
        assert "k odd and at most 33" in message
    message = refused("spatial_enhancement", "x", [(2, 8, 3, 24, jnp.float32), *inputs[1:]], outputs)
    assert "p a multiple of 16" in message


@needs_kernels
def test_only_half_a_norm_is_refused() -> None:
    """Otherwise, the kernel would read an empty array."""
    inputs, outputs = map(shapes, SIGNATURES["convolution"])
    for i, name in ((2, "offset"), (1, "offset")):
        refused("convolution", name, [*inputs[:i], (0, jnp.float32), *inputs[i + 1 :]], outputs)


@needs_kernels
def test_the_message_says_what_was_expected_and_found() -> None:
    inputs, outputs = map(shapes, SIGNATURES["convolution"])
    message = refused("convolution", "taps", [*inputs[:3], (27, 5, jnp.int32), *inputs[4:]], outputs)
    assert "seemore_convolution: taps must be float32 [9c, o] with c=3, not int32 [27, 5]" in message


@needs_kernels
def test_no_rows_to_compute_are_no_error() -> None:
    for kernel, at in itertools.product(SIGNATURES, (0, 4, 8)):
        inputs, outputs = map(shapes, SIGNATURES[kernel])
        call(kernel, inputs, outputs, region=(*REGION[:7], at, at))


@needs_kernels
def test_an_image_too_low_for_the_reduction_has_none() -> None:
    """Otherwise, a division by zero ends the process."""
    for kernel in ("reduction", "reduction_backward"):
        inputs, outputs = map(shapes, SIGNATURES[kernel])
        call(kernel, inputs, outputs, region=(3, 13, 0, 3, 2, 0, 3, 0, 3))


_FLOAT64 = """
import jax
from tests.network.implementations import test_native as t
t.native.available(), t.native.prepare("strips"), t.native.prepare("gradients")
for kernel, signature in t.SIGNATURES.items():
    inputs, outputs = map(t.shapes, signature)
    for i, (name, _) in enumerate(signature[0]):
        message = t.refused(kernel, name, [*inputs[:i], (*inputs[i][:-1], "float64"), *inputs[i + 1 :]], outputs)
        assert "float64" in message, message
    for i, (name, _) in enumerate(signature[1]):
        t.refused(kernel, name, inputs, [*outputs[:i], (*outputs[i][:-1], "float64"), *outputs[i + 1 :]])
    assert "int64 [9]" in t.refused(kernel, "region", inputs, outputs, region=jax.numpy.zeros(9, "int64"))
"""


@needs_kernels
def test_float64_under_jax_enable_x64_is_an_error() -> None:
    """A float64 buffer raises an exception; it must not end the process."""
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    subprocess.run([sys.executable, "-c", _FLOAT64], env=environment, cwd=Path(__file__).parents[3], check=True)


X86 = "processor : {core}\nmodel name : Some CPU\ncpu MHz : {mhz}\nflags : fpu sse2 {flag}\n\n"
ARM = "processor : {core}\nBogoMIPS : 243.75\nFeatures : fp asimd {flag}\nCPU implementer : 0x41\nCPU part : {part}\n\n"


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (X86.format(core=0, mhz=1, flag="avx2"), X86.format(core=0, mhz=1, flag="avx512f")),
        (ARM.format(core=0, part="0xd0c", flag=""), ARM.format(core=0, part="0xd0c", flag="sve")),
        (ARM.format(core=0, part="0xd0c", flag="sve"), ARM.format(core=0, part="0xd40", flag="sve")),
        (  # two kinds of core
            ARM.format(core=0, part="0xd0c", flag=""),
            ARM.format(core=0, part="0xd0c", flag="") + ARM.format(core=1, part="0xd40", flag=""),
        ),
    ],
    ids=["flags", "features", "part", "two kinds of core"],
)
def test_each_cpu_has_kernels_of_its_own(tmp_path: Path, text: str, other: str) -> None:
    """Otherwise, machines that share a home directory would run instructions that their CPU does not have."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(text)
    second.write_text(other)
    assert native._cpu(first) != native._cpu(second)


def test_the_same_cpu_has_the_same_kernels(tmp_path: Path) -> None:
    """The clock rate and the number of cores do not matter; otherwise, kernels would be compiled again and again."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(X86.format(core=0, mhz=1, flag="avx2"))
    second.write_text(X86.format(core=0, mhz=2, flag="avx2") + X86.format(core=1, mhz=3, flag="avx2"))
    assert native._cpu(first) == native._cpu(second)


def test_a_system_without_proc_has_a_cpu_too(tmp_path: Path) -> None:
    assert native._cpu(tmp_path / "none")


@needs_kernels
def test_flags_in_the_compilers_name_make_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, CXX="g++ -mno-avx512f" would have no effect if kernels without this flag are in the cache."""
    monkeypatch.setenv("CXX", "c++")
    plain = native.identity()
    monkeypatch.setenv("CXX", "c++ -O1")
    assert native.identity() != plain


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Returns an empty cache folder; the only source file compiles quickly."""
    (tmp_path / "one.cc").write_text('extern "C" __attribute__((visibility("default"))) int one() { return 1; }')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    return tmp_path / "cache"


@needs_kernels
@pytest.mark.parametrize("size", [0, 100, 5000, -1])
def test_a_damaged_file_is_compiled_again(empty_cache: Path, size: int) -> None:
    """The process can crash when it loads a truncated file."""
    path = native._compiled("one")
    content = path.read_bytes()
    path.write_bytes(content[:size] if size >= 0 else bytes(reversed(content)))
    assert ctypes.CDLL(str(native._compiled("one"))).one() == 1
    assert path.read_bytes() == content
    assert native._compiled("one") == path


@needs_kernels
def test_several_processes_may_compile_at_once(empty_cache: Path) -> None:
    with futures.ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: native._compiled("one"), range(8)))
    (path,) = paths
    assert ctypes.CDLL(str(path)).one() == 1
    assert {file.suffix for file in path.parent.iterdir()} == {".so", ".sha256"}


def test_a_file_that_cannot_be_loaded_is_done_without(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is a warning of one line. A file cannot be loaded, for example, from a folder mounted without execution."""
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\nfor last; do :; done\necho no program > "$last"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.delenv("SEEMORE_NATIVE", raising=False)
    monkeypatch.setattr(native, "unavailable_reason", native.unavailable_reason.__wrapped__)
    with caplog.at_level(logging.WARNING):
        assert not native.available.__wrapped__()
    message = caplog.records[-1].getMessage()
    assert "cannot be compiled or loaded" in message
    assert "\n" not in message


_FAILING = """
#include "call.h"
namespace seemore {
void fails(const Call& call) {
  for_each_task(call.pool, 20, [](int task) {
    if (task == 3) throw std::bad_alloc();
  });
}
SEEMORE_KERNEL(fails, "x[n h c p]", "out[n h c p]");
}
"""


@needs_kernels
def test_a_kernel_without_memory_says_so(tmp_path: Path) -> None:
    """A kernel that runs out of memory on any thread raises an exception; it must not end the process."""
    source, library = tmp_path / "fails.cc", tmp_path / "fails.so"
    source.write_text(_FAILING)
    include = ["-I", str(native._FOLDER), "-isystem", jax.ffi.include_dir()]
    subprocess.run([*native.compiler(), *native._FLAGS, *include, str(source), "-o", str(library)], check=True)
    handler = jax.ffi.pycapsule(ctypes.CDLL(str(library)).seemore_fails)
    jax.ffi.register_ffi_target("seemore_fails", handler, platform="cpu")
    x = [(2, 8, 3, 16, jnp.float32)]
    for _ in range(5):
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="RESOURCE_EXHAUSTED: seemore_fails: out of"):
            call("fails", x, x)
