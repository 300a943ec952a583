"""If these tests fail, a wrong call of a kernel, a damaged file or a lack of memory can end the process."""

import ctypes
import functools
import importlib.metadata
import itertools
import logging
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
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
t.native.available()
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


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Returns a copy of the folder of the libraries, without sources; nothing of it is loaded yet."""
    shutil.copytree(native._FOLDER / "compiled", tmp_path / "compiled")
    monkeypatch.delenv("SEEMORE_NATIVE", raising=False)
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    for function in ("level", "unavailable_reason", "available", "_compiled_folder"):
        monkeypatch.setattr(native, function, getattr(native, function).__wrapped__)
    return tmp_path / "compiled"


def built() -> list[str]:
    """Returns the levels of this kind of CPU."""
    return [path.stem.removeprefix("kernels-") for path in sorted((native._FOLDER / "compiled").glob("*.so"))]


@needs_kernels
def test_the_levels_are_those_of_one_kind_of_cpu() -> None:
    """Otherwise, the installation has compiled a level that is never loaded, or left one out."""
    assert tuple(built()) in native.LEVELS.values()


_FORCED = """
import jax, numpy
from flax import nnx
from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.network.implementations import cpu, native, plain
import os
assert native.available() and native.level() == os.environ["SEEMORE_NATIVE"], native.unavailable_reason()
config = SeemoReConfig.variant("T", 2, num_layers=1, embedding_dim=12, recursive=1)
model, lr = SeemoRe(config, rngs=nnx.Rngs(0)), jax.random.uniform(jax.random.key(1), (1, 17, 21, 3))
def loss(network, lr, apply_network):
    return (apply_network(network, lr)[0] ** 2).sum()
found, expected = (
    nnx.jit(nnx.value_and_grad(loss, argnums=1), static_argnums=2)(model, lr, module.apply_network)
    for module in (cpu, plain)
)
jax.tree.map(lambda a, b: numpy.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5 * abs(b).max()), found, expected)
print("the same")
"""


@needs_kernels
@pytest.mark.thorough
@pytest.mark.parametrize("level", [level for levels in native.LEVELS.values() for level in levels])
def test_each_level_computes_the_same(level: str) -> None:
    """Otherwise, people whose CPU is older than this one get other images."""
    if level not in built()[: built().index(native.level()) + 1]:
        pytest.skip(f"no {level} on this CPU")
    environment = {**os.environ, "SEEMORE_NATIVE": level}
    done = subprocess.run([sys.executable, "-c", _FORCED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "the same\n"


@needs_kernels
def test_a_level_that_the_cpu_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch, compiled: Path) -> None:
    """Otherwise, an illegal instruction ends the process."""
    monkeypatch.setenv("SEEMORE_NATIVE", "x86-64-v5")
    assert re.search(r"SEEMORE_NATIVE=x86-64-v5 is none of 0, \S+", native.unavailable_reason())
    first = built()[0]
    monkeypatch.setenv("SEEMORE_NATIVE", first)
    assert native.level() == first
    monkeypatch.delenv("SEEMORE_NATIVE")
    monkeypatch.setattr(native, "_text", lambda *_: "")  # a CPU older than all levels
    assert "this CPU lacks instructions of" in native.unavailable_reason()


@needs_kernels
def test_without_sources_the_libraries_are_taken_as_they_are(compiled: Path) -> None:
    assert native._text(native._library(), "seemore_sources")


@needs_kernels
@pytest.mark.parametrize("changed", [False, True])
def test_a_copy_of_the_repository_takes_the_libraries_of_the_installation(
    compiled: Path, changed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, `pip install .` and then `python -m seemore_jax` in the repository, as in the README, is slow."""
    environment = compiled.parent / "environment"
    installed = environment / native._IN_PACKAGE
    shutil.move(compiled, installed)
    if changed:
        (compiled.parent / "rows.h").write_text("// changed after the installation")
    found = [types.SimpleNamespace(locate_file=folder.joinpath) for folder in (compiled.parent, environment)]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: found)
    registered: list[str] = []  # not with XLA, which refuses a second library in one process
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda name, *_, **__: registered.append(name))
    assert ("install seemore-jax again" in native.unavailable_reason()) == changed
    assert len(registered) == (0 if changed else len(native.KERNELS))


@needs_kernels
def test_libraries_of_other_sources_are_not_taken(compiled: Path) -> None:
    """Otherwise, who has changed a kernel, or another version's checkout, goes on with the old one unknowingly."""
    (compiled.parent / "rows.h").write_text("// changed")
    assert "make kernels" in native.unavailable_reason()


@needs_kernels
@pytest.mark.parametrize("content", [b"", b"no library"])
def test_a_file_that_cannot_be_loaded_is_done_without(
    compiled: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """There is a warning of one line. A file cannot be loaded, for example, from a folder mounted without execution."""
    for path in compiled.iterdir():
        path.unlink()  # not truncated: the original is loaded, and may be the same file
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert not native.available()
    message = caplog.records[-1].getMessage()
    assert "there are no CPU kernels" in message
    assert "\n" not in message


X86 = "processor : 0\nmodel name : Some CPU\ncpu MHz : 1\nflags : fpu sse2\n\n"
ARM = "processor : 0\nBogoMIPS : 243.75\nFeatures : fp asimd\nCPU implementer : 0x41\nCPU part : 0xd0c\n\n"


@pytest.mark.parametrize(("text", "name"), [(X86, "Some CPU"), (ARM, "ARM 0x41 0xd0c")])
def test_the_cpu_has_a_name(tmp_path: Path, text: str, name: str) -> None:
    """Verdicts of the self-check belong to a CPU: machines that share a home directory must have different names."""
    (tmp_path / "cpuinfo").write_text(text)
    assert native.cpu_name(tmp_path / "cpuinfo") == name


def test_a_system_without_proc_has_a_cpu_too(tmp_path: Path) -> None:
    assert native.cpu_name(tmp_path / "none")


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
    compiler = os.environ.get("CXX", "c++").split()
    options = ["-std=gnu++17", "-Wno-psabi", "-fPIC", "-shared", "-fvisibility=hidden"]
    include = ["-I", str(native._FOLDER), "-isystem", jax.ffi.include_dir()]
    subprocess.run([*compiler, *options, *include, str(source), "-o", str(library)], check=True)
    handler = jax.ffi.pycapsule(ctypes.CDLL(str(library)).seemore_fails)
    jax.ffi.register_ffi_target("seemore_fails", handler, platform="cpu")
    x = [(2, 8, 3, 16, jnp.float32)]
    for _ in range(5):
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="RESOURCE_EXHAUSTED: seemore_fails: out of"):
            call("fails", x, x)
