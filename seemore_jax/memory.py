"""How much memory is free, and what becomes of memory that large arrays leave."""

import contextlib
import ctypes
from pathlib import Path

import psutil

# Names of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_KEPT_BYTES = 10**9


def keep_freed_memory() -> None:
    """Makes C's allocator keep up to 1 GB that arrays leave for those that follow; to be called before any is made.

    Otherwise each large array is given pages of its own by the system and returns them: a fifth of the time of an
    image that is upscaled in strips, and more in virtual machines. Without glibc, nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT_BYTES)):
            mallopt(option, value)


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, or of the container that it runs in."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or none with a limit
        return free
    return max(0, min(free, limit - used))
