"""Compiles traced programs for TPUs and GPUs, and caches the results on disk, so that a second report takes seconds.

JAX's own compilation cache cannot read programs that libtpu has compiled without a TPU.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from seemore_jax.ahead_of_time.gpus import NO_TILES, GpuTopology, compiler_options
from seemore_jax.ahead_of_time.matrix_flops import equations
from seemore_jax.ahead_of_time.program_cost import memory_bytes
from seemore_jax.ahead_of_time.programs import trace_inference, trace_step
from seemore_jax.ahead_of_time.targets import Target
from seemore_jax.ahead_of_time.topologies import Topology
from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations.pallas_stages import MapShape
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import atomic_write, user_cache
from seemore_jax.training.experiment import Experiment

# The least height in LR pixels of an image whose kernels are analysed: the context is reduced by up to 16.
_LEAST_HEIGHT = 32
# The kinds of chip whose kernels libtpu 0.0.42.1 can analyse. For v4 and TPU7x, the analysis ends the process. For v5p,
# it ends the process for some kernels, and reports 9 cycles for others that take thousands.
_ANALYSED = ("v5e", "v6e")
_VERSIONED = ("jax", "jaxlib", "libtpu", "jax-cuda12-pjrt", "jax-cuda13-pjrt")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The result of a compilation.

    Attributes:
      hlo: the HLO text of the optimised program.
      memory: bytes on each device, under the keys of `program_cost.memory_bytes`.
      seconds: the time of the compilation; a cached result has the time of the original compilation.
    """

    hlo: str
    memory: dict[str, int]
    seconds: float


def compile_traced(traced: Any, topology: Target) -> Compiled:
    """Compiles a program for a topology, or reads the result from the user's cache.

    Args:
      traced: a `jax.stages.Traced`, such as `programs.trace_step` returns.
      topology: the TPU slice or the GPUs to compile for.

    Returns:
      The result of the compilation.

    Raises:
      InputError: the program does not fit into the memory of a chip, or the compiler refuses it.
    """
    options = compiler_options() if isinstance(topology, GpuTopology) else {}
    with _without_locations():
        lowered = traced.lower(lowering_platforms=("cuda",)) if options else traced.lower()
    key = _key(f"{topology.name}{options or ''}", lowered.as_text().encode())
    if cached := _read_cache(key):
        return Compiled(**cached)
    start = time.perf_counter()
    try:
        with no_compilation_cache(), _shown(f"compiling for {topology.name}"):  # JAX could not read a cached entry
            try:
                compiled = lowered.compile(compiler_options=options)
            except jax.errors.JaxRuntimeError as error:
                if NO_TILES not in str(error):
                    raise
                compiled = lowered.compile(compiler_options=compiler_options(fused_products=False))
    except jax.errors.JaxRuntimeError as error:
        raise InputError(_refusal(topology, str(error))) from error
    result = Compiled(compiled.as_text() or "", memory_bytes(compiled), time.perf_counter() - start)
    _write_cache(key, dataclasses.asdict(result))
    return result


def _refusal(topology: Target, message: str) -> str:
    """Returns one line about a program that the compiler refused, with advice."""
    said = message.splitlines()[0]
    if "RESOURCE_EXHAUSTED" not in message:
        return f"the compiler for {topology.kind} refuses the program: {said}; try --config.implementation=plain"
    if "vmem" in message.lower():
        return (
            f"a kernel does not fit into the VMEM of {topology.kind}: {said}; "
            "take a smaller --config.patch_size, or --config.implementation=plain"
        )
    return (
        f"does not fit into the memory of {topology.kind}: {said}; take a smaller batch, or --config.rematerialize=True"
    )


def no_compilation_cache() -> contextlib.AbstractContextManager[None]:
    """Keeps JAX from writing compiled programs into its cache, for the duration of a block."""
    return _option("jax_persistent_cache_min_compile_time_secs", float("inf"))


@contextlib.contextmanager
def _option(name: str, value: Any) -> Iterator[None]:
    """Sets an option of JAX for the duration of a block."""
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _shown(text: str) -> contextlib.AbstractContextManager[Any]:
    """Shows a line on a terminal while a block runs whose progress is not known."""
    return tqdm(desc=text, bar_format="{desc}: a minute or more", leave=False, disable=None)


def _without_locations() -> contextlib.AbstractContextManager[None]:
    """Leaves source locations out of traced programs, so that the cache key does not depend on the caller."""
    return _option("jax_traceback_in_locations_limit", 0)


# Cycles of the Pallas kernels.


def kernel_cycles(jaxpr: Any, topology: Topology) -> dict[str, int]:
    """Returns the cycles of one call of each Pallas kernel of a program, from libtpu's analysis of the machine code.

    XLA has no estimate for a kernel inside a program, so each kernel is compiled by itself. This happens in another
    process, because libtpu reads the flag for the analysis only when it is loaded, and with this flag the compilation
    of XLA's own fusions takes very long. Each kernel has its own process, because the analysis of large arrays takes
    gigabytes that only the end of the process frees.

    Args:
      jaxpr: the traced program, a `jax.core.Jaxpr`.
      topology: the TPU slice to compile for.

    Returns:
      Cycles by the name of the kernel. The dictionary is empty if libtpu cannot analyse kernels for this kind of chip.

    Raises:
      InputError: the compiler refuses a kernel.
    """
    cycles: dict[str, int] = {}
    kernels = list(_exported_kernels(jaxpr))
    for name, program in tqdm(kernels, desc="analysing kernels", unit="kernel", leave=False, disable=None):
        key = _key(topology.kind, program)
        found = _read_cache(key)
        if found is None:
            found = {"cycles": _analyse_in_another_process(program, topology)}
            _write_cache(key, found)
        if found["cycles"] is not None:
            cycles[name] = found["cycles"]
    return cycles


def step_kernel_cycles(experiment: Experiment, topology: Topology, images: int) -> dict[str, int]:
    """Returns the cycles of one call of each Pallas kernel of a training step, as `kernel_cycles` does.

    A kernel computes one image after the other, so that its cycles grow linearly. They are extrapolated from those for
    one and for two images, because the analysis of 32 images takes over 20 GB of memory.

    Args:
      experiment: the experiment.
      topology: the TPU slice to compile for.
      images: the number of patches on each chip.

    Returns:
      Cycles by the name of the kernel. If libtpu cannot analyse kernels for this kind of chip, the dictionary is empty,
      and no kernel is compiled.

    Raises:
      InputError: the compiler refuses a kernel.
    """
    if topology.kind not in _ANALYSED:
        return {}
    device = topology.devices()[:1]
    one, *two = (
        kernel_cycles(trace_step(experiment, device, few).jaxpr.jaxpr, topology) for few in range(1, min(images, 2) + 1)
    )
    return {name: cycles + (images - 1) * (two[0][name] - cycles if two else 0) for name, cycles in one.items()}


def inference_kernel_cycles(experiment: Experiment, topology: Topology, height: int, width: int) -> dict[str, int]:
    """Returns the cycles of one call of each Pallas kernel of the inference of one image, as `kernel_cycles` does.

    A kernel computes one chunk of pixels after the other, so that its cycles grow linearly. They are extrapolated from
    those of two images of the same width with fewer chunks, because the analysis of 57 chunks takes over 12 GB of
    memory.

    Args:
      experiment: the experiment with the network.
      topology: the TPU slice to compile for.
      height: the height of the LR image in pixels.
      width: the width of the LR image in pixels.

    Returns:
      Cycles by the name of the kernel. If libtpu cannot analyse kernels for this kind of chip, the dictionary is empty,
      and no kernel is compiled.

    Raises:
      InputError: the compiler refuses a kernel.
    """
    if topology.kind not in _ANALYSED:
        return {}

    def analysed(height: int) -> dict[str, int]:
        program = trace_inference(experiment, topology.devices()[0], height, width)
        return kernel_cycles(program.jaxpr.jaxpr, topology)

    def chunks(height: int) -> int:
        shape = MapShape.of(height, width, experiment.network)
        return shape.lanes // shape.chunk

    heights = _two_heights(height, width, experiment.network)
    if heights is None:
        return analysed(height)
    few, more = map(analysed, heights)
    first, second = map(chunks, heights)
    return {  # kernels that fit for a higher image fit for a lower one, too
        name: few[name] + round((chunks(height) - first) * (cycles - few[name]) / (second - first))
        for name, cycles in more.items()
    }


def _two_heights(height: int, width: int, network: SeemoReConfig) -> tuple[int, int] | None:
    """Returns two lower heights, the second with at least twice the chunks; None if the image has too few chunks.

    The last chunk is padded, or not, as that of the image, because the kernels mask padded pixels.
    """
    if height <= _LEAST_HEIGHT:
        return None
    shapes = {one: MapShape.of(one, width, network) for one in range(_LEAST_HEIGHT, height + 1)}
    alike = [
        one
        for one, shape in shapes.items()
        if (shape.pixels == shape.lanes) == (shapes[height].pixels == shapes[height].lanes)
        and shape.chunk == shapes[height].chunk
    ]
    if not alike:
        return None
    second = next((one for one in alike if shapes[one].lanes >= 2 * shapes[alike[0]].lanes), height)
    return (alike[0], second) if second < height else None


def _exported_kernels(jaxpr: Any) -> Iterator[tuple[str, bytes]]:
    """Yields the name of each kernel, and a serialized program that calls the kernel once."""
    seen = set()
    for equation in equations(jaxpr, "pallas_call"):
        name = str(equation.params["name"])
        if equation.params["interpret"] or name in seen:
            continue
        seen.add(name)

        def call(*arrays: Any, equation: Any = equation) -> Any:
            return equation.primitive.bind(*arrays, **equation.params)

        arguments = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
        with _without_locations():
            program = jax.export.export(jax.jit(call), platforms=["tpu"])(*arguments)
        yield name, bytes(program.serialize())


def _analyse_in_another_process(program: bytes, topology: Topology) -> int | None:
    """Compiles the kernel of a serialized program. Returns its cycles; None if the compiler does not tell them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program"
        file.write_bytes(program)
        environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        if topology.kind in _ANALYSED:
            environment["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_static_llo_profile_to={folder}/profiles"
        command = [sys.executable, "-m", __name__, topology.name, str(file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise InputError(f"the kernels cannot be compiled by themselves: {said}; --no_kernels leaves out their cycles")
    return json.loads(done.stdout.splitlines()[-1])


def _analyse(topology: Topology, file: Path) -> int | None:
    """Compiles a serialized program and returns the cycles of its kernel; runs in the other process."""
    sharding = jax.sharding.SingleDeviceSharding(topology.devices()[0])
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in program.in_avals]
    call = jax.jit(program.call, in_shardings=sharding, out_shardings=sharding)
    text = call.lower(*arguments).compile().as_text() or ""
    found = re.search(r'"bundle_analysis_data":\{"estimated_cycles":"(\d+)"', text.partition("tpu_custom_call")[2])
    return int(found[1]) if found else None


# The cache of results.


def _key(target: str, program: bytes) -> str:
    found = {name: importlib.metadata.version(name) for name in _VERSIONED if _is_installed(name)}
    versions = [f"{name} {version}" for name, version in found.items()]
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    return hashlib.sha256("\n".join([target, *versions, *flags]).encode() + b"\n" + program).hexdigest()


def _is_installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def _read_cache(key: str) -> dict[str, Any] | None:
    try:
        return json.loads(gzip.decompress((user_cache("tpu") / f"{key}.json.gz").read_bytes()))
    except (OSError, EOFError, RuntimeError, ValueError):  # missing, damaged, or no home directory
        return None


def _write_cache(key: str, content: dict[str, Any]) -> None:
    try:
        with atomic_write(user_cache("tpu") / f"{key}.json.gz") as temporary:
            temporary.write_bytes(gzip.compress(json.dumps(content).encode()))
    except (OSError, RuntimeError):
        return  # the program will be compiled again


if __name__ == "__main__":
    print(json.dumps(_analyse(Topology(sys.argv[1]), Path(sys.argv[2]))))
