"""The command `doctor`: reports what a bug report needs to know about this machine, and what is wrong with it."""

import argparse
import importlib.metadata
import platform
from collections.abc import Iterator

from seemore_jax.command_line.options import add_device_option
from seemore_jax.network.config import SeemoReConfig
from seemore_jax.system.devices import use_device
from seemore_jax.system.errors import InputError
from seemore_jax.system.memory import free_memory
from seemore_jax.version import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
_CACHES = {"checks": "verdicts of the self-check", "programs": "compiled programs"}
# Networks whose implementation is reported: the default model, and what accelerators are faster with.
_TYPES = {"cpu": ("float32",), "gpu": ("float32", "bfloat16"), "tpu": ("float32", "bfloat16")}
# With less free memory, a photograph of two megapixels cannot be upscaled.
_LEAST_MEMORY = 2 * 10**9


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("doctor", help="examine this machine: versions, devices, kernels, caches, memory")
    add_device_option(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the findings. Returns the exit status: 1 if there are problems."""
    if options.device:
        use_device(options.device)
    lines, problems = examine()
    print("\n".join(lines))
    print("\n".join(f"problem: {problem}" for problem in problems) or "no problem found")
    return 1 if problems else 0


def examine() -> tuple[list[str], list[str]]:
    """Examines this installation and this machine; checks the kernels, if that has not been done here before.

    Returns:
      Lines that describe them, and a line for each problem.
    """
    problems: list[str] = []
    lines = [
        f"seemore-jax {__version__}, Python {platform.python_version()}, {platform.platform()}",
        "packages: " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        *_devices(problems),
        *_kernels(),
        *_implementations(problems),
        *_caches(problems),
        *_memory(problems),
    ]
    return lines, problems


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _devices(problems: list[str]) -> Iterator[str]:
    import jax

    from seemore_jax.network.implementations import self_check

    try:
        devices = jax.devices()
    except RuntimeError as error:
        problems.append(f"JAX finds no device: {' '.join(str(error).split())}")
        return
    kinds = sorted({self_check.device_kind(device) for device in devices})
    yield f"devices: {len(devices)} × {', '.join(kinds)} (backend {jax.default_backend()})"


def _kernels() -> Iterator[str]:
    from seemore_jax.network.implementations import native

    if not native.unavailable_reason():
        yield f"CPU kernels: compiled for {native.level()}"


def _implementations(problems: list[str]) -> Iterator[str]:
    import jax

    from seemore_jax.network.implementations import fused_implementation, self_check

    backend = jax.default_backend()
    for compute_dtype in _TYPES.get(backend, ("float32",)):
        config = SeemoReConfig.variant("T", 4, compute_dtype=compute_dtype)
        network = f"SeemoRe-T ×4 in {compute_dtype}"
        name, apply_network = fused_implementation(config)
        if name == "plain":
            yield f"{network}: plain implementation, {_why_plain(backend, config, problems)}"
            continue
        try:
            verdict = self_check.verdict(name, apply_network, config, gradients=True)
        except InputError as error:
            problems.append(str(error))
            continue
        if verdict.is_right and not verdict.passed:
            yield f"{network}: plain implementation, since the {name} kernels are slower: {verdict.reason}"
            continue
        if not verdict.passed:
            problems.append(self_check.refusal(name, verdict))
            yield f"{network}: plain implementation, because the {name} kernels failed their check"
            continue
        figures = ", ".join(f"{what} differ by {figure:.1e}" for what, figure in verdict.figures.items())
        found = f"{figures}, relative; checked in {verdict.seconds:.1f} s" if figures else "the check is switched off"
        yield f"{network}: {name} kernels ({found})"


def _why_plain(backend: str, config: SeemoReConfig, problems: list[str]) -> str:
    from seemore_jax.network.implementations import gpu, native

    if backend == "gpu":
        return f"since the kernels cannot be used: {gpu.unsupported_reason(config)}"
    if backend != "cpu":
        return f"since there are no kernels for {backend}"
    if native.switched_off():
        return "as SEEMORE_NATIVE=0 asks for"
    reason = native.unavailable_reason()
    problems.append(f"the CPU kernels are missing, which makes the network several times slower: {reason}")
    return "since the CPU kernels are missing"


def _caches(problems: list[str]) -> Iterator[str]:
    from seemore_jax.system.files import user_cache

    for name, what in _CACHES.items():
        try:
            yield f"cache of {what}: {user_cache(name)}"
        except (OSError, RuntimeError) as error:
            problems.append(f"the cache of {what} cannot be written ({error}); each start makes them again")


def _memory(problems: list[str]) -> Iterator[str]:
    free = free_memory()
    yield f"free memory: {free / 1e9:.1f} GB"
    if free < _LEAST_MEMORY:
        problems.append(f"only {free / 1e9:.1f} GB of memory are free")
