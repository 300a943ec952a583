"""Which of JAX's backends computes, and which one programs are made for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

from seemore_jax.system.errors import InputError

DEVICES = ("cpu", "gpu", "tpu")
_TARGET: contextvars.ContextVar[str | None] = contextvars.ContextVar("target", default=None)


def target_backend() -> str:
    """The backend that what is traced now will run on: JAX's default one, unless `compiling_for` names another."""
    return _TARGET.get() or jax.default_backend()


def is_compiling_ahead() -> bool:
    """Whether programs are traced for machines that are not here."""
    return _TARGET.get() is not None


@contextlib.contextmanager
def compiling_for(backend: str) -> Iterator[None]:
    """While the block runs, programs are traced as that backend gets them, whatever this machine has."""
    token = _TARGET.set(backend)
    try:
        yield
    finally:
        _TARGET.reset(token)


def use_device(name: str) -> None:
    """Makes one of `DEVICES` JAX's default; to be called before anything is computed.

    Raises:
      InputError: there is none, or JAX has started with another.
    """
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", name)
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        jax.config.update("jax_platforms", before)
        raise InputError(f"no {name} that JAX could use is here") from error
    if found != name:
        jax.config.update("jax_platforms", before)
        raise InputError(f"no {name} can be used any more: JAX computes on {found} already")
