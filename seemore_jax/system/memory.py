"""How much memory is free."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil


class _Files(NamedTuple):
    """A control group's limit and what it has taken, and the entry of its statistics for what of that is cache."""

    limit: str
    taken: str
    cache: str


_VERSIONS = {
    2: _Files("memory.max", "memory.current", "inactive_file"),
    1: _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: of the machine, or of the container or job that it runs in.

    Args:
      root: where `proc` and `sys` are.
    """
    left = (_left(group, _VERSIONS[version]) for version, group in _groups(root))
    return max(0, min([psutil.virtual_memory().available, *(each for each in left if each is not None)]))


def _groups(root: Path) -> Iterator[tuple[int, Path]]:
    """The control groups of this process and all that these are in, as version and folder; each has its own limit."""
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
        # group. So the mounted folder itself is looked at too.
        names = [name for name in path.split("/") if name]
        for version, top in places:
            yield from ((version, top.joinpath(*names[:depth])) for depth in range(len(names) + 1))


def _left(group: Path, files: _Files) -> int | None:
    """What a group may still take; None if it is not there, or has no limit."""
    try:
        limit, taken = (int((group / name).read_text()) for name in (files.limit, files.taken))
    except (OSError, ValueError):  # "max" where there is no limit
        return None
    return limit - taken + _cache(group, files)


def _cache(group: Path, files: _Files) -> int:
    """What counts as taken, but is given back when it is needed: files that were read and are not in use."""
    try:
        statistics = (group / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in statistics if line.split()[:1] == [files.cache])
    except (OSError, ValueError, IndexError, StopIteration):
        return 0
