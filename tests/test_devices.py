"""How much memory is free: what the kernel says of the machine, and what is left of a container's limit."""

import os
from pathlib import Path

import pytest

from lookalike.devices import free_memory

GIB = 2**30
UNLIMITED = 9223372036854771712  # what version 1 writes where there is no limit


def machine(
    root: Path, available: int = 64 * GIB, groups: str | None = None, files: dict[str, object] | None = None
) -> Path:
    """A root folder with what a kernel tells of its memory."""
    content = {"proc/meminfo": f"MemTotal: {128 * GIB // 1024} kB\nMemAvailable: {available // 1024} kB\n"}
    content |= {} if groups is None else {"proc/self/cgroup": groups}
    content |= {f"sys/fs/cgroup/{name}": f"{value}\n" for name, value in (files or {}).items()}
    for name, text in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def version_2(limit: object, used: int, inactive: int = 0, active: int = 0, group: str = "") -> dict[str, object]:
    stat = f"anon {used - inactive - active}\nfile {inactive + active}\nactive_file {active}\ninactive_file {inactive}"
    return {f"{group}memory.max": limit, f"{group}memory.current": used, f"{group}memory.stat": stat}


def version_1(limit: int, used: int, inactive: int = 0, active: int = 0, group: str = "") -> dict[str, object]:
    # without total_ they are those of the group alone, not of the groups in it
    stat = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {inactive}\ntotal_active_file {active}"
    names = ("limit_in_bytes", "usage_in_bytes", "stat")
    return {f"memory/{group}memory.{name}": value for name, value in zip(names, (limit, used, stat), strict=True)}


def test_without_a_container_it_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    assert free_memory(machine(tmp_path, 5 * GIB)) == 5 * GIB


def test_of_this_machine_it_is_something_and_not_more_than_it_has() -> None:
    assert 0 < free_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("groups", ["0::/\n", None])
def test_what_is_in_use_in_a_container_is_not_free(tmp_path: Path, groups: str | None) -> None:
    assert free_memory(machine(tmp_path, groups=groups, files=version_2(8 * GIB, 3 * GIB))) == 5 * GIB


def test_page_cache_that_can_be_dropped_is_free(tmp_path: Path) -> None:
    files = version_2(8 * GIB, 7 * GIB, inactive=2 * GIB, active=3 * GIB)
    assert free_memory(machine(tmp_path, groups="0::/\n", files=files)) == 6 * GIB


def test_a_container_does_not_get_more_than_the_machine_has(tmp_path: Path) -> None:
    files = version_2(8 * GIB, GIB)
    assert free_memory(machine(tmp_path, 4 * GIB, "0::/\n", files)) == 4 * GIB


def test_no_limit_is_none(tmp_path: Path) -> None:
    assert free_memory(machine(tmp_path / "2", groups="0::/\n", files=version_2("max", 3 * GIB))) == 64 * GIB
    groups = "4:memory:/\n0::/\n"
    assert free_memory(machine(tmp_path / "1", groups=groups, files=version_1(UNLIMITED, 3 * GIB))) == 64 * GIB


def test_version_1_counts_like_version_2(tmp_path: Path) -> None:
    files = version_1(8 * GIB, 7 * GIB, inactive=GIB, active=GIB)
    groups = "11:cpu,cpuacct:/a\n4:memory:/\n1:name=systemd:/\n"
    assert free_memory(machine(tmp_path, groups=groups, files=files)) == 3 * GIB


def test_a_container_of_version_1_is_told_a_path_that_it_does_not_see(tmp_path: Path) -> None:
    """Docker shows a container its own group at the top, and in /proc the path that the machine has for it."""
    files = version_1(8 * GIB, 7 * GIB)
    assert free_memory(machine(tmp_path, groups="4:memory:/docker/1f2e3d\n", files=files)) == GIB


def test_the_tightest_of_the_groups_above_counts(tmp_path: Path) -> None:
    """A job of Slurm has its limit on a group above that of the step."""
    files = (
        version_2(32 * GIB, 20 * GIB, group="system.slice/")
        | version_2(4 * GIB, 3 * GIB, group="system.slice/job_7/")
        | version_2("max", GIB, group="system.slice/job_7/step_0/")
        | version_2(GIB, GIB, group="system.slice/job_8/")
    )
    root = machine(tmp_path, groups="0::/system.slice/job_7/step_0\n", files=files)
    assert free_memory(root) == GIB


def test_a_container_that_is_over_its_limit_has_nothing(tmp_path: Path) -> None:
    assert free_memory(machine(tmp_path, groups="0::/\n", files=version_2(GIB, 2 * GIB))) == 0
