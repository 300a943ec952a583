"""The backend that computes, and the backend that programs are compiled for.

The command line names the devices, so JAX, which takes long to import, is imported only when it is asked.
"""

import contextlib
import contextvars
from collections.abc import Iterator

from seemore_jax.system.errors import InputError

DEVICES = ("cpu", "gpu", "tpu")
# The backend, and the kind of device, that `compiling_for` names.
_TARGET: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar("target", default=None)


def target_backend() -> str:
    """Returns the backend for which programs are traced now: that of `compiling_for`, or JAX's default one."""
    import jax

    target = _TARGET.get()
    return target[0] if target else jax.default_backend()


def target_device_kind() -> str:
    """Returns the kind of device for which programs are traced now, as JAX names it, such as "TPU v5 lite".

    It is that of `compiling_for`, which may be empty, or that of JAX's first device.
    """
    import jax

    target = _TARGET.get()
    return target[1] if target else jax.devices()[0].device_kind


def is_compiling_ahead() -> bool:
    """Returns whether programs are traced for another machine, inside `compiling_for`."""
    return _TARGET.get() is not None


@contextlib.contextmanager
def compiling_for(backend: str, device_kind: str = "") -> Iterator[None]:
    """Traces programs for a backend while the block runs, whatever devices this machine has.

    Args:
      backend: "cpu", "gpu" or "tpu".
      device_kind: the kind of device as JAX names it; empty if it does not matter.
    """
    token = _TARGET.set((backend, device_kind))
    try:
        yield
    finally:
        _TARGET.reset(token)


def use_device(name: str) -> None:
    """Makes a kind of device JAX's default. Call it before anything is computed.

    Args:
      name: one of `DEVICES`.

    Raises:
      InputError: this machine has no such device, or JAX computes on another one already.
    """
    import jax

    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", name)
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        jax.config.update("jax_platforms", before)
        raise InputError(f"this machine has no {name} that JAX can use") from error
    if found != name:
        jax.config.update("jax_platforms", before)
        raise InputError(f"the {name} cannot be used: JAX computes on {found} already")
