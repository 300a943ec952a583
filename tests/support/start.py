"""Independence of the tests from the environment and the signals of the process that starts them."""

import os
import signal

# Variables that change JAX, XLA or the code that runs are removed, except for the compilation cache and the platform.
_KEPT = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PLATFORMS")
_FOREIGN = ("JAX_", "XLA_", "SLURM_", "SEEMORE_NATIVE")


def start_afresh() -> None:
    """Makes this process and its children independent of the process that started it."""
    # Shells start background jobs with SIGINT ignored, and child processes inherit this, so that a test could not
    # interrupt them. A handler is not inherited.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)
    for name in list(os.environ):
        if (name.startswith(_FOREIGN) and name not in _KEPT) or name.lower().endswith("_proxy"):
            del os.environ[name]
