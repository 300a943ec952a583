"""Which of JAX's backends computes."""

import jax

from seemore_jax.errors import InputError

DEVICES = ("cpu", "gpu", "tpu")


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
