"""The cache of compiled programs. The commands switch it on; users of the library decide for themselves.

JAX finds an entry by program, JAX version, flags and device. For a CPU that includes its instruction sets, so machines
that share a home directory do not get each other's programs.
"""

import os
import warnings

import jax

from seemore_jax.system.files import user_cache

# The user's variable, JAX's option, and the value here.
_OPTIONS = (
    # Programs that compile faster are not worth a file.
    ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "jax_persistent_cache_min_compile_time_secs", 0.1),
    # In bytes. JAX then removes the entries that were not used for longest.
    ("JAX_COMPILATION_CACHE_MAX_SIZE", "jax_compilation_cache_max_size", 2 * 10**9),
)


def use_compilation_cache() -> None:
    """Makes JAX store compiled programs in the user's cache folder. Call it before anything is compiled.

    The folder is $XDG_CACHE_HOME/seemore-jax/programs, by default in ~/.cache. JAX's own variables take precedence:
    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false switches the cache off. If the
    folder cannot be written or belongs to another user, every start compiles.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or not jax.config.values["jax_enable_compilation_cache"]:
        return
    try:
        folder = user_cache("programs")
    except (OSError, RuntimeError):  # the latter where there is no home directory
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for variable, option, value in _OPTIONS:
        if variable not in os.environ:
            jax.config.update(option, value)
    # A damaged entry or a full disk only costs the time to compile again.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
