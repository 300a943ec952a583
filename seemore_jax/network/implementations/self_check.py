"""Self-check: before its first use on a kind of device, a fused implementation is compared with the plain one.

Both implementations compute a small network with the widths and types of the real one, on images of odd size that
choose all experts. The check compares the values, and the gradients of all parameters and of the images. On a GPU, it
then measures the times of both. The user's cache keeps the verdict for the kind of device, the implementation, the
sources and the versions.
"""

import concurrent.futures
import contextvars
import dataclasses
import functools
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxlib

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.implementations import native
from seemore_jax.network.implementations.comparison import compare
from seemore_jax.network.implementations.timing import median_times
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import atomic_write, user_cache

_LOG = logging.getLogger(__name__)
_MAX_REDUCTIONS = 1  # further reductions would need larger images, and have no kernels
_SECONDS_TO_AGREE = 600  # time to wait for the verdict of another process
# Implementations without backward kernels. Where a gradient is taken, they compute the values by the plain functions. A
# comparison of gradients would therefore not call the kernels.
_FORWARD_ONLY = ("gpu",)
_LOCK = threading.Lock()
# Whether this thread runs a comparison. A comparison must use the implementation that is being checked.
_CHECKING: contextvars.ContextVar[bool] = contextvars.ContextVar("checking", default=False)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Result of the self-check of an implementation.

    Attributes:
      passed: whether "auto" may take the implementation.
      device: kind of device that computed the comparison.
      figures: largest relative difference of the values and, if they were compared, of the gradients.
      reason: the block that differs and its difference, the error of the implementation, or that it is slower; empty if
        it passed.
      seconds: duration of the check in seconds.
      times: milliseconds of an inference by the implementation and by the plain one, by their names, if they were
        measured. They are measured only if the values and the gradients are right.
    """

    passed: bool
    device: str
    figures: dict[str, float]
    reason: str
    seconds: float
    times: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether the implementation computes the right values: it may be used by its name."""
        return self.passed or bool(self.times)


def is_usable(name: str, apply_network: Callable[..., Any], config: SeemoReConfig, *, gradients: bool) -> bool:
    """Returns whether to use an implementation: it passed the self-check, or it is only slower and was asked for.

    Args:
      name: name of the implementation.
      apply_network: its function, as `plain.apply_network`.
      config: configuration of the network to compute.
      gradients: whether to check the gradients, too.

    Raises:
      InputError: the implementation failed, and `config.implementation` is its name, not "auto".
    """
    if _CHECKING.get():
        return True
    found = verdict(name, apply_network, config, gradients=gradients)
    if config.implementation == "auto":
        return found.passed
    if not found.is_right:
        raise InputError(f"implementation={name}: {refusal(name, found)}, and set implementation='plain'")
    return True


def verdict(name: str, apply_network: Callable[..., Any], config: SeemoReConfig, *, gradients: bool) -> Verdict:
    """Returns the verdict on an implementation, from the cache or from a comparison.

    This function may be called while JAX traces a program: the comparison runs in another thread, which JAX traces
    separately. With several hosts, all processes must call it. If the implementation failed in one of them, all
    processes get that verdict.

    Args:
      name: name of the implementation.
      apply_network: its function, as `plain.apply_network`.
      config: configuration of the network to compute.
      gradients: whether to check the gradients, too.
    """
    with _LOCK:
        return _verdict(name, apply_network, _checked_config(config), gradients and name not in _FORWARD_ONLY)


@functools.cache
def _verdict(name: str, apply_network: Callable[..., Any], config: SeemoReConfig, gradients: bool) -> Verdict:
    device = _device(name)
    if os.environ.get("SEEMORE_SELF_CHECK") == "0":
        found = Verdict(True, device_kind(device), {}, "", 0.0)
    else:
        key = _key(name, config, device, gradients)
        found = _read(key) or _compared(name, apply_network, config, device, gradients, key)
    if jax.process_count() > 1:
        found = _agreed(config, gradients, found)
    if not found.passed:
        _LOG.warning(refusal(name, found))
    return found


def refusal(name: str, found: Verdict) -> str:
    """Returns a message of one line about an implementation that failed the self-check.

    Args:
      name: name of the implementation.
      found: its verdict.
    """
    what = f"the {name} kernels are not used: {found.reason} on {found.device}"
    return what if found.is_right else f"{what}; please report it with the output of python -m seemore_jax doctor"


def device_kind(device: jax.Device) -> str:
    """Returns the kind of a device, for which a verdict is valid, such as "cpu" and the name of the CPU.

    Args:
      device: the device.
    """
    return f"{device.platform} {native.cpu_name()}" if device.platform == "cpu" else device.device_kind


def _device(name: str) -> jax.Device:
    """Returns the device that compares an implementation."""
    return jax.local_devices(backend="cpu")[0] if name == "cpu" else jax.local_devices()[0]


def _checked_config(config: SeemoReConfig) -> SeemoReConfig:
    """Returns the small network of the check, with only those options of the real one that the kernels depend on."""
    recursive = min(config.recursive, _MAX_REDUCTIONS)
    return dataclasses.replace(
        config, scale=2, img_range=1.0, num_layers=1, recursive=recursive, rematerialize=False, implementation="plain"
    )


# The cache.


def _key(name: str, config: SeemoReConfig, device: jax.Device, gradients: bool) -> str:
    """Returns the name of the file of a verdict. It depends on everything that the verdict depends on."""
    versions = [jax.__version__, jaxlib.__version__, device.client.platform_version]
    kernels = native.identity() if name == "cpu" else ""
    identity = [name, dataclasses.asdict(config), gradients, device_kind(device), _sources(), kernels, *versions]
    return f"{name}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]}"


@functools.cache
def _sources() -> str:
    """Returns a digest of the sources of the network and of the kernels."""
    folder = Path(__file__).parents[1]
    files = sorted(file for suffix in ("py", "cc", "h") for file in folder.rglob(f"*.{suffix}"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _file(key: str) -> Path:
    return user_cache("checks") / f"{key}.json"


def _read(key: str) -> Verdict | None:
    try:
        return Verdict(**json.loads(_file(key).read_text()))
    except (OSError, RuntimeError, ValueError, TypeError):  # there is no file, or it is damaged
        return None


def _write(key: str, found: Verdict) -> None:
    try:
        with atomic_write(_file(key)) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(found)) + "\n")
    except (OSError, RuntimeError) as error:  # the next process checks again
        _LOG.debug("the verdict cannot be kept: %s", error)


def _compared(
    name: str, apply_network: Callable[..., Any], config: SeemoReConfig, device: jax.Device, gradients: bool, key: str
) -> Verdict:
    """Compares an implementation in another thread, and keeps the verdict."""

    def compared() -> tuple[dict[str, float], str, dict[str, float]]:
        _CHECKING.set(True)  # in this thread
        figures, reason = compare(apply_network, config, device, gradients=gradients)
        if reason or device.platform != "gpu":
            return figures, reason, {}
        times = median_times(name, apply_network, config, device)
        return figures, _slower(name, times), times

    with concurrent.futures.ThreadPoolExecutor(1, "self-check") as thread:
        start = time.monotonic()
        try:
            figures, reason, times = thread.submit(compared).result()
        except Exception as error:  # any error of a compiler or a driver; it may not happen again and is not kept
            detail = " ".join(str(error).split())[:300] or type(error).__name__
            return Verdict(False, device_kind(device), {}, f"they fail ({detail})", time.monotonic() - start)
    found = Verdict(not reason, device_kind(device), figures, reason, time.monotonic() - start, times)
    _write(key, found)
    return found


def _slower(name: str, times: dict[str, float]) -> str:
    """Returns that an implementation is slower than the plain one; an empty string if it is faster."""
    if times[name] < times["plain"]:
        return ""
    return f"they take {times[name]:.2f} ms where the plain network takes {times['plain']:.2f} ms"


# Several hosts.


def announce_plain(config: SeemoReConfig) -> None:
    """Tells the other processes that this one has no kernels, so that all use the plain implementation.

    Args:
      config: configuration of the network to compute.
    """
    if jax.process_count() > 1:
        reason = "there are no kernels"
        _announce(_checked_config(config), False, Verdict(False, device_kind(jax.local_devices()[0]), {}, reason, 0.0))


def _announce(config: SeemoReConfig, gradients: bool, mine: Verdict) -> str:
    """Publishes the verdict of this process for the others. Returns the folder of the verdicts."""
    from seemore_jax.system.processes import coordination_client

    folder = f"seemore/checks/{hashlib.sha256(f'{config} {gradients}'.encode()).hexdigest()[:16]}"
    text = json.dumps(dataclasses.asdict(mine))
    coordination_client().key_value_set(f"{folder}/{jax.process_index()}", text, allow_overwrite=True)
    return folder


def _agreed(config: SeemoReConfig, gradients: bool, mine: Verdict) -> Verdict:
    """Returns the failed verdict of the process with the lowest number; the verdict of this process if none failed.

    A verdict that the values are wrong precedes one that the implementation is only slower.

    Raises:
      RuntimeError: another process has not called the network. With several hosts, all processes must call it.
    """
    from seemore_jax.system.processes import coordination_client

    folder = _announce(config, gradients, mine)
    failed = []
    for other in range(jax.process_count()):
        try:
            text = coordination_client().blocking_key_value_get(f"{folder}/{other}", 1000 * _SECONDS_TO_AGREE)
        except Exception as error:
            raise RuntimeError(
                f"process {other} has not called the network within {_SECONDS_TO_AGREE} s, and all processes have to "
                "take the same implementation; call it on all of them, or set implementation='plain'"
            ) from error
        found = Verdict(**json.loads(text))
        if not found.passed:
            failed.append(dataclasses.replace(found, reason=f"on process {other}, {found.reason}"))
        if not found.is_right:
            break
    return min(failed, key=lambda found: found.is_right, default=mine)
