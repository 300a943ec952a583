"""Free memory, also within containers and jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil


class _Files(NamedTuple):
    """Names of a control group's files: its limit, its usage; and the entry for cached files in its statistics."""

    limit: str
    taken: str
    cache: str


_VERSIONS = {
    2: _Files("memory.max", "memory.current", "inactive_file"),
    1: _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_memory(root: Path = Path("/")) -> int:
    """Returns how many bytes this process can still allocate, on the machine or in its container or job.

    Args:
      root: the folder that contains `proc` and `sys`.
    """
    left = (_left(group, _VERSIONS[version]) for version, group in _groups(root))
    return max(0, min([psutil.virtual_memory().available, *(each for each in left if each is not None)]))


def _groups(root: Path) -> Iterator[tuple[int, Path]]:
    """Yields the control groups of this process and their parents, as version and folder. Each has its own limit."""
    mounts = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:  # not Linux, or a container that hides it
        lines = ["0::/", "1:memory:/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        places: list[tuple[int, Path]] = []
        if not controllers:
            places = [(2, mounts), (2, mounts / "unified")]
        elif "memory" in controllers.split(","):
            places = [(1, mounts / "memory")]
        # In a container, the path may be that of the host, while the mounted folder begins at the container's own
        # group. So the mounted folder itself is one of the candidates.
        names = [name for name in path.split("/") if name]
        for version, top in places:
            yield from ((version, top.joinpath(*names[:depth])) for depth in range(len(names) + 1))


def _left(group: Path, files: _Files) -> int | None:
    """Returns how many bytes a group can still allocate; None if it does not exist or has no limit."""
    try:
        limit, taken = (int((group / name).read_text()) for name in (files.limit, files.taken))
    except (OSError, ValueError):  # "max" where there is no limit
        return None
    return limit - taken + _cache(group, files)


def _cache(group: Path, files: _Files) -> int:
    """Returns the bytes of cached files, which count as used but are freed when memory is needed."""
    try:
        statistics = (group / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in statistics if line.split()[:1] == [files.cache])
    except (OSError, ValueError, IndexError, StopIteration):
        return 0
