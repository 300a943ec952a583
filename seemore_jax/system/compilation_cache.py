"""The cache of compiled programs. The commands switch it on; users of the library decide for themselves.

JAX finds an entry by program, JAX version, flags and device. For a CPU that includes its instruction sets, so machines
that share a home directory do not get each other's programs.
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
    """Makes JAX store compiled programs in the user's cache folder. Call it before anything is compiled.

    The folder is $XDG_CACHE_HOME/seemore-jax/jax, by default in ~/.cache. JAX's own variables take precedence:
    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false switches the cache off. If the
    folder cannot be written or belongs to another user, every start compiles.
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
