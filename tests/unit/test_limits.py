"""The limits of the process and its telemetry, read from the trees that Docker, Kubernetes and
systemd leave behind.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from hive.spore.machine.limits import MIB, Limits, read_limits
from hive.spore.machine.telemetry import Sampler

V2 = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n"
V1_DOCKER = (
    "30 23 0:26 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    "31 23 0:27 /docker/abc /sys/fs/cgroup/memory ro master:1 - cgroup cgroup rw,memory\n"
)
V1_PATHS = "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n"


def tree(root: Path, mountinfo: str, cgroup: str, files: dict[str, str]) -> Path:
    """A copy of what the kernel shows, below `root`."""
    content = {"/proc/self/mountinfo": mountinfo, "/proc/self/cgroup": cgroup, **files}
    for name, text in content.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def limits(
    root: Path, mountinfo: str, cgroup: str, files: dict[str, str], cores: int = 8
) -> Limits:
    return read_limits(
        tree(
            root,
            mountinfo,
            cgroup,
            {f"/sys/fs/cgroup/{name}": text for name, text in files.items()},
        ),
        cores=cores,
    )


def test_docker_on_v2_with_a_private_namespace(tmp_path: Path) -> None:
    found = limits(
        tmp_path, V2, "0::/\n", {"cpu.max": "50000 100000\n", "memory.max": "536870912\n"}
    )
    assert (found.cpus, found.memory_limit) == (0.5, 512 * MIB)


def test_docker_on_v1_seen_with_the_hosts_paths(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "memory/memory.limit_in_bytes": "1073741824\n",
    }
    found = limits(tmp_path, V1_DOCKER, V1_PATHS, files)
    assert (found.cpus, found.memory_limit) == (1.5, 1024 * MIB)
    assert found.cpu_groups[0].usage_file == tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpuacct.usage"


def test_v1_without_limits_limits_nothing(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    found = limits(tmp_path, V1_DOCKER, V1_PATHS, files)
    assert (found.cpus, found.memory_limit, found.cpu_groups, found.memory_groups) == (
        8,
        None,
        (),
        (),
    )


def test_a_systemd_service_obeys_the_quota_of_its_slice(tmp_path: Path) -> None:
    files = {
        "system.slice/hive.service/cpu.max": "max 100000\n",
        "system.slice/hive.service/memory.max": "max\n",
        "system.slice/cpu.max": "80000 100000\n",
        "system.slice/memory.max": "2147483648\n",
    }
    found = limits(tmp_path, V2, "0::/system.slice/hive.service\n", files)
    assert (found.cpus, found.memory_limit) == (0.8, 2048 * MIB)
    assert found.cpu_groups[0].usage_file == tmp_path / "sys/fs/cgroup/system.slice/cpu.stat"


def test_the_smallest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {
        "a/b/cpu.max": "300000 100000\n",
        "a/cpu.max": "200000 100000\n",
        "a/b/memory.max": "1073741824\n",
        "a/memory.max": "4294967296\n",
    }
    found = limits(tmp_path, V2, "0::/a/b\n", files)
    assert (found.cpus, found.memory_limit) == (2, 1024 * MIB)
    assert [group.quota for group in found.cpu_groups] == [3, 2]


def test_a_hybrid_machine_is_read_controller_by_controller(tmp_path: Path) -> None:
    mountinfo = (
        "29 23 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "30 23 0:26 / /sys/fs/cgroup/memory rw - cgroup memory rw,memory\n"
        "31 23 0:27 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,name=systemd\n"
    )
    files = {
        "unified/job/cpu.max": "100000 100000\n",
        "unified/job/memory.max": "1048576\n",
        "memory/batch/memory.limit_in_bytes": "268435456\n",
    }
    found = limits(tmp_path, mountinfo, "3:memory:/batch\n1:name=systemd:/\n0::/job\n", files)
    assert (found.cpus, found.memory_limit) == (1, 256 * MIB)


def test_cpu_usage_is_counted_by_a_controller_mounted_elsewhere(tmp_path: Path) -> None:
    mountinfo = (
        "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cpu rw,cpu\n"
        "31 23 0:27 / /sys/fs/cgroup/cpuacct rw - cgroup cpuacct rw,cpuacct\n"
    )
    files = {
        "cpu/job/cpu.cfs_quota_us": "50000",
        "cpu/job/cpu.cfs_period_us": "100000",
        "cpuacct/job/cpuacct.usage": "2500000000",
    }
    found = limits(tmp_path, mountinfo, "2:cpuacct:/job\n1:cpu:/job\n", files)
    assert found.cpu_groups[0].used_seconds() == 2.5


@pytest.mark.parametrize(("path", "mounted"), [("/../other", "/"), ("/elsewhere/abc", "/kubepods")])
def test_a_path_outside_the_mount_means_the_mount_itself(
    tmp_path: Path, path: str, mounted: str
) -> None:
    other = tmp_path / "sys/fs/other"
    other.mkdir(parents=True)
    (other / "cpu.max").write_text("1000 100000")
    found = limits(
        tmp_path,
        V2.replace("0:26 /", f"0:26 {mounted}", 1),
        f"0::{path}\n",
        {"cpu.max": "200000 100000"},
    )
    assert found.cpus == 2


def test_a_mount_point_with_a_blank_in_its_name(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "30 23 0:26 / /my\\040groups rw - cgroup2 cgroup rw\n",
        "0::/\n",
        {"/my groups/cpu.max": "50000 100000"},
    )
    assert read_limits(root, cores=8).cpus == 0.5


@pytest.mark.parametrize("text", ["", "nonsense", "max", "-5 100000", "5 0", "100000"])
def test_what_cannot_be_understood_limits_nothing(tmp_path: Path, text: str) -> None:
    found = limits(
        tmp_path, V2 + "garbage\n", "0::/\nalso garbage\n", {"cpu.max": text, "memory.max": text}
    )
    assert found.cpus == 8


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    found = read_limits(tmp_path, cores=3)
    assert (found.cpus, found.memory_limit) == (3, None)
    assert found.memory_mb == psutil.virtual_memory().total // MIB


def test_a_quota_above_the_affinity_changes_nothing(tmp_path: Path) -> None:
    assert limits(tmp_path, V2, "0::/\n", {"cpu.max": "1600000 100000"}, cores=2).cpus == 2


def test_the_limits_of_this_process_can_be_read() -> None:
    found = read_limits()
    assert 0 < found.cpus <= (os.cpu_count() or 1)
    assert 0 < found.memory_mb <= psutil.virtual_memory().total // MIB


def stat(busy: int, idle: int) -> str:
    """/proc/stat of a machine whose every CPU counted these ticks (10 ms)."""
    cores = "".join(
        f"cpu{core} {busy} 0 0 {idle} 0 0 0 0 0 0\n" for core in range(os.cpu_count() or 1)
    )
    return f"cpu  0 0 0 0 0 0 0 0 0 0\n{cores}intr 1\n"


def test_cpu_is_the_share_of_the_quota_where_that_is_larger(tmp_path: Path) -> None:
    files = {
        "/sys/fs/cgroup/cpu.max": "50000 100000",
        "/sys/fs/cgroup/cpu.stat": "usage_usec 0\n",
        "/proc/stat": stat(0, 0),
    }
    sampler = Sampler(root=tree(tmp_path, V2, "0::/\n", files))
    started = time.monotonic()
    time.sleep(0.2)
    interval = time.monotonic() - started
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text(
        f"usage_usec {int(interval * 0.4e6)}\nuser_usec 0\n"
    )
    (tmp_path / "proc/stat").write_text(stat(10, 90))
    sample = sampler.sample()
    # 0.8 of the quota, less where this test was kept waiting between the two clocks; the cores are
    # at 0.1.
    assert 0.3 < sample.cpu <= 0.85


def test_cpu_is_the_busy_share_of_the_cores_where_no_quota_is(tmp_path: Path) -> None:
    sampler = Sampler(root=tree(tmp_path, V2, "0::/\n", {"/proc/stat": stat(1000, 1000)}))
    time.sleep(0.06)
    (tmp_path / "proc/stat").write_text(stat(1030, 1070))
    assert sampler.sample().cpu == pytest.approx(0.3)


def test_two_samples_in_one_instant_agree(tmp_path: Path) -> None:
    sampler = Sampler(root=tree(tmp_path, V2, "0::/\n", {"/proc/stat": stat(0, 0)}))
    time.sleep(0.06)
    (tmp_path / "proc/stat").write_text(stat(50, 50))
    assert sampler.sample().cpu == sampler.sample().cpu == pytest.approx(0.5)


def test_memory_is_of_the_limit_and_without_the_cache_nobody_reads(tmp_path: Path) -> None:
    files = {
        "/sys/fs/cgroup/memory.max": str(1000 * MIB),
        "/sys/fs/cgroup/memory.current": str(800 * MIB),
        "/sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {300 * MIB}\n",
    }
    sample = Sampler(root=tree(tmp_path, V2, "0::/\n", files)).sample()
    assert sample.memory == pytest.approx(0.5)
    assert sample.memory_free_mb <= 500


def test_memory_is_the_fullest_of_the_groups(tmp_path: Path) -> None:
    files = {
        "/sys/fs/cgroup/a/memory.max": str(200 * MIB),
        "/sys/fs/cgroup/a/b/memory.max": str(100 * MIB),
        "/sys/fs/cgroup/a/memory.current": str(180 * MIB),
        "/sys/fs/cgroup/a/b/memory.current": str(20 * MIB),
    }
    sample = Sampler(root=tree(tmp_path, V2, "0::/a/b\n", files)).sample()
    assert sample.memory == pytest.approx(0.9)
    assert sample.memory_free_mb == 20


def test_a_busy_loop_shows_on_this_machine() -> None:
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        sampler = Sampler()
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
        sample = sampler.sample()
    finally:
        os.sched_setaffinity(0, before)
    assert sample.cpu > 0.5
    assert 0 < sample.memory < 1
    assert sample.memory_free_mb > 0
    assert sample.load1 >= 0
