"""Compiles traced programs, and keeps what was found out about them: a second look at a program takes seconds.

JAX's own cache cannot read what libtpu compiled without a TPU.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from seemore_jax.ahead_of_time.matrix_flops import equations
from seemore_jax.ahead_of_time.program_cost import memory
from seemore_jax.ahead_of_time.topologies import Topology
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import atomic_write, user_cache

_VERSIONED = ("jax", "jaxlib", "libtpu")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of a program.

    Attributes:
      hlo: the optimised program's text.
      memory: bytes on each device, as `program_cost.memory` names them.
      seconds: that the compiler took, when it was compiled.
    """

    hlo: str
    memory: dict[str, int]
    seconds: float


def compile_traced(traced: Any, topology: Topology) -> Compiled:
    """Compiles a program for a topology, or takes what was kept of it from the user's cache.

    Raises:
      InputError: it does not fit into a chip's memory.
    """
    with _without_locations():
        lowered = traced.lower()
    key = _key(topology.name, lowered.as_text().encode())
    if kept := _kept(key):
        return Compiled(**kept)
    start = time.perf_counter()
    try:
        with _option("jax_persistent_cache_min_compile_time_secs", float("inf")):  # it could not read its entry
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            f"does not fit into the memory of {topology.kind}: {str(error).splitlines()[0]}; "
            "take a smaller batch, or --config.rematerialize=True"
        ) from error
    result = Compiled(compiled.as_text() or "", memory(compiled), time.perf_counter() - start)
    _keep(key, dataclasses.asdict(result))
    return result


@contextlib.contextmanager
def _option(name: str, value: Any) -> Iterator[None]:
    """Sets one of JAX's options while the block runs."""
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _without_locations() -> contextlib.AbstractContextManager[None]:
    """Leaves out of programs by which lines of Python they were traced: their keys must not depend on the caller."""
    return _option("jax_traceback_in_locations_limit", 0)


# Cycles of the kernels.


def kernel_cycles(jaxpr: Any, topology: Topology) -> dict[str, int]:
    """Cycles of one call of each Pallas kernel of a program: libtpu's analysis of its final instruction bundles.

    XLA has no estimate for a kernel within a program, so each is compiled by itself. libtpu takes the flag that makes
    it write its analysis when it is loaded, and with it takes very long for XLA's own fusions: hence the other
    process.
    """
    cycles: dict[str, int] = {}
    missing: dict[str, bytes] = {}
    for name, program in _exported_kernels(jaxpr):
        kept = _kept(_key(topology.kind, program))
        if kept:
            cycles[name] = kept["cycles"]
        else:
            missing[name] = program
    if missing:
        found = _analyse_in_another_process(missing, topology)
        for name, count in found.items():
            _keep(_key(topology.kind, missing[name]), {"cycles": count})
        cycles |= found
    return cycles


def _exported_kernels(jaxpr: Any) -> Iterator[tuple[str, bytes]]:
    """Each kernel's name, and a program that calls it once."""
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


def _analyse_in_another_process(programs: dict[str, bytes], topology: Topology) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        for name, program in programs.items():
            (Path(folder) / name).write_bytes(program)
        environment = os.environ | {
            "LIBTPU_INIT_ARGS": f"--xla_jf_dump_static_llo_profile_to={folder}/profiles",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        }
        command = [sys.executable, "-m", __name__, topology.name, *(str(Path(folder) / name) for name in programs)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _analyse(topology: Topology, files: Sequence[Path]) -> dict[str, int]:
    """What the other process does."""
    sharding = jax.sharding.SingleDeviceSharding(topology.devices()[0])
    cycles = {}
    for file in files:
        program = jax.export.deserialize(bytearray(file.read_bytes()))
        arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in program.in_avals]
        call = jax.jit(program.call, in_shardings=sharding, out_shardings=sharding)
        text = call.lower(*arguments).compile().as_text() or ""
        found = re.search(r'"bundle_analysis_data":\{"estimated_cycles":"(\d+)"', text.partition("tpu_custom_call")[2])
        if found:
            cycles[file.name] = int(found[1])
    return cycles


# What is kept.


def _key(target: str, program: bytes) -> str:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _VERSIONED]
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    return hashlib.sha256("\n".join([target, *versions, *flags]).encode() + b"\n" + program).hexdigest()


def _kept(key: str) -> dict[str, Any] | None:
    try:
        return json.loads(gzip.decompress((user_cache("tpu") / f"{key}.json.gz").read_bytes()))
    except (OSError, EOFError, RuntimeError, ValueError):  # nothing there, damaged, or no home directory
        return None


def _keep(key: str, content: dict[str, Any]) -> None:
    try:
        with atomic_write(user_cache("tpu") / f"{key}.json.gz") as temporary:
            temporary.write_bytes(gzip.compress(json.dumps(content).encode()))
    except (OSError, RuntimeError):
        return  # then it is compiled again


if __name__ == "__main__":
    print(json.dumps(_analyse(Topology(sys.argv[1]), [Path(name) for name in sys.argv[2:]])))
