"""If these fail, feature maps go to a file though there is memory for them, or are kept where there is none."""

from pathlib import Path

import pytest

from seemore_jax.system import memory

NO_LIMIT = 9223372036854771712  # as the first version of control groups says it


def system(root: Path, groups: str, **files: dict[str, object]) -> Path:
    """A system whose process is in these groups; of each file in its folder, the content."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(groups)
    for folder, contents in files.items():
        path = root / "sys" / "fs" / "cgroup" / folder.replace("__", "/")
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (path / name).write_text(f"{content}\n")
    return root


def second(limit: object, taken: int, cache: int = 0) -> dict[str, object]:
    return {"memory.max": limit, "memory.current": taken, "memory.stat": f"anon 1\ninactive_file {cache}"}


def first(limit: object, taken: int, cache: int = 0) -> dict[str, object]:
    statistics = f"inactive_file 1\ntotal_inactive_file {cache}"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": taken, "memory.stat": statistics}


def test_there_is_free_memory(tmp_path: Path) -> None:
    assert 10**8 < memory.free_memory() < 10**14
    assert memory.free_memory(tmp_path) > 10**8  # a system without control groups


@pytest.mark.parametrize(
    ("folders", "free"),
    [
        ({".": second(5000, 2000)}, 3000),
        ({"job__step": second(5000, 2000)}, 3000),
        ({"job__step": second("max", 2000), "job": second(4000, 2500), ".": second("max", 9000)}, 1500),
        ({"job__step": second(2000, 1000), "job": second(4000, 2500)}, 1000),
        ({"job__step": second(5000, 5000, cache=700)}, 700),  # files that were read take no memory from anyone
        ({"job__step": second(5000, 6000)}, 0),
        ({"other": second(5000, 4999), "job__step": second(5000, 2000)}, 3000),
        ({"unified__job__step": second(5000, 2000)}, 3000),
    ],
)
def test_the_narrowest_of_the_process_s_groups_counts(
    tmp_path: Path, folders: dict[str, dict[str, object]], free: int
) -> None:
    assert memory.free_memory(system(tmp_path, "0::/job/step\n", **folders)) == free


@pytest.mark.parametrize(
    ("folders", "free"),
    [
        ({"memory__docker__id": first(5000, 2000)}, 3000),
        ({"memory": first(5000, 2000)}, 3000),  # the path is the host's, which a container does not see
        ({"memory__docker__id": first(NO_LIMIT, 2000), "memory__docker": first(4000, 3000)}, 1000),
        ({"memory__docker__id": first(5000, 5000, cache=700)}, 700),
    ],
)
def test_groups_of_the_first_version_too(tmp_path: Path, folders: dict[str, dict[str, object]], free: int) -> None:
    groups = "5:cpu,cpuacct:/docker/id\n4:hugetlb,memory:/docker/id\n1:name=systemd:/a:b\n0::/\n"
    assert memory.free_memory(system(tmp_path, groups, **folders)) == free


def test_without_a_limit_the_machine_s_memory_counts(tmp_path: Path) -> None:
    unlimited = {".": second("max", 2000), "memory": first(NO_LIMIT, 2000)}
    assert memory.free_memory(system(tmp_path, "1:memory:/\n0::/\n", **unlimited)) > 10**8
