"""Compiled programs kept for later starts: the commands switch this on, the library leaves it to its user.

JAX keys its entries by program, JAX version, flags and device. On a CPU the latter includes the instruction sets that
it has, so machines that share a home directory do not get each other's programs.
"""

import os
import warnings
from pathlib import Path

import jax

from seemore_jax.system.files import user_cache

# Programs that compile faster are not worth a file.
_MIN_COMPILE_SECONDS = 0.1
# Of all entries; beyond it, the oldest go at the next start.
_MAX_BYTES = 2 * 10**9


def use_compilation_cache() -> None:
    """Makes JAX keep what it compiles in the user's cache folder; to be called before anything is compiled.

    The folder is $XDG_CACHE_HOME/seemore-jax/jax, by default in ~/.cache. JAX's own variables go first:
    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false switches it off. Without a
    folder that can be written and is the user's own, every start compiles.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or not jax.config.values["jax_enable_compilation_cache"]:
        return
    try:
        folder = user_cache("jax")
        _prune(folder)
    except (OSError, RuntimeError):  # the latter where there is no home directory
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
    # A damaged entry or a full disk only costs the time that there would be nothing to read.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")


def _prune(folder: Path) -> None:
    """Removes the oldest entries beyond the limit."""
    entries = [(path, path.stat()) for path in folder.glob("*-cache")]
    excess = sum(found.st_size for _, found in entries) - _MAX_BYTES
    for path, found in sorted(entries, key=lambda entry: entry[1].st_mtime):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= found.st_size
