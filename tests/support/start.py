"""What a test run inherits from whoever starts it, and must not depend on."""

import os
import signal

# What is said to JAX but for where programs are kept and what computes, and what changes which code of ours runs.
_KEPT = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PLATFORMS")
_FOREIGN = ("JAX_", "XLA_", "SLURM_", "SEEMORE_NATIVE")


def start_afresh() -> None:
    """Makes this process, and those that it starts, independent of how it was started."""
    # Shells start background jobs with SIGINT ignored. Every process would inherit that, and could not be interrupted
    # by its test; a handler is not inherited.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)
    for name in list(os.environ):
        if (name.startswith(_FOREIGN) and name not in _KEPT) or name.lower().endswith("_proxy"):
            del os.environ[name]
