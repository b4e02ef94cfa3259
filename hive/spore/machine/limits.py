"""How much CPU and memory this process may use: its affinity and the limits of its control groups
(v1, v2 and hybrid).

Machines mix both hierarchies, so each controller is looked up by itself: v1 where it is mounted,
else v2. A limit may sit on any ancestor (systemd puts a slice's quota on the slice), so all groups
from the process's own up to the mount are read. Source: cgroups(7), proc(5) mountinfo; Linux'
Documentation/admin-guide/cgroup-v1 and cgroup-v2.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

MIB = 1 << 20
ROOT = Path("/")
# v1 writes "no limit" as the largest number that is a multiple of the page size.
NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class CpuGroup:
    """A control group with a CPU quota.

    `quota`: CPUs; `usage_file`: where the kernel counts what the group used.
    """

    quota: float
    usage_file: Path

    def used_seconds(self) -> float | None:
        """CPU seconds that the group's processes have used; None when the kernel does not tell."""
        text = _read(self.usage_file)
        if text is None:
            return None
        if self.usage_file.name == "cpu.stat":
            microseconds = _fields(text).get("usage_usec")
            return None if microseconds is None else microseconds / 1e6
        nanoseconds = _number(text)
        return None if nanoseconds is None else nanoseconds / 1e9


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group with a memory limit.

    `limit`: bytes; `usage_file`, `stat_file`: what the group holds, and of which kind.
    """

    limit: int
    usage_file: Path
    stat_file: Path

    def used_bytes(self) -> int | None:
        """Bytes that the group holds and cannot give back at once; None when none are told.

        Cached files that nobody read lately are given back before the limit hurts, so they do not
        count: a node that has read a large file is not full.
        """
        text = _read(self.usage_file)
        used = None if text is None else _number(text)
        if used is None:
            return None
        stat = _fields(_read(self.stat_file) or "")
        return max(0, used - stat.get("total_inactive_file", stat.get("inactive_file", 0)))


@dataclass(frozen=True, slots=True)
class Limits:
    """What limits this process.

    cpus: CPUs it may use, the smallest of affinity and quotas.
    memory_limit: the smallest memory limit of its control groups (bytes), None without one.
    cpu_groups, memory_groups: every group with a limit, the process's own first.
    """

    cpus: float
    memory_limit: int | None
    cpu_groups: tuple[CpuGroup, ...]
    memory_groups: tuple[MemoryGroup, ...]

    @property
    def memory_mb(self) -> int:
        """MiB this process may use: the limit, or the machine's memory where that is less."""
        machine = psutil.virtual_memory().total
        return min(machine, self.memory_limit or machine) // MIB


def affinity() -> frozenset[int]:
    """The numbers of the CPUs that this process may run on.

    It is asked for by process id: in a thread, `0` would mean that thread, which `taskset -p` on
    the process leaves as it was.
    """
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(os.getpid()))
    return frozenset(range(os.cpu_count() or 1))


def read_limits(root: Path = ROOT, *, cores: int | None = None) -> Limits:
    """Read the limits of this process.

    root: where /proc and the control groups are found; a copied tree serves as well.
    cores: number of CPUs in the affinity; asked of the system when None.

    Returns: the limits; what cannot be read or understood limits nothing.
    """
    groups = _Groups(root)
    cpu_groups = tuple(_cpu_groups(groups))
    memory_groups = tuple(_memory_groups(groups))
    available = float(len(affinity()) if cores is None else cores)
    return Limits(
        cpus=min([available, *(group.quota for group in cpu_groups)]),
        memory_limit=min((group.limit for group in memory_groups), default=None),
        cpu_groups=cpu_groups,
        memory_groups=memory_groups,
    )


def oom_kills(root: Path = ROOT) -> int | None:
    """How many processes of this process's control group the kernel has ended for want of memory.

    Where the group does not tell, those of the whole machine. None when nothing tells.

    root: as for `read_limits`.
    """
    version, folders = _Groups(root).folders("memory")
    name = "memory.events" if version == 2 else "memory.oom_control"
    tellers = [*(folder / name for folder in folders[:1]), root / "proc/vmstat"]
    counts = (_fields(_read(teller) or "").get("oom_kill") for teller in tellers)
    return next((count for count in counts if count is not None), None)


def _cpu_groups(groups: _Groups) -> list[CpuGroup]:
    version, folders = groups.folders("cpu")
    if version == 2:
        quotas = [(_quota_v2(folder), folder / "cpu.stat") for folder in folders]
    else:
        # Usage is counted by a controller of its own, which may be mounted elsewhere.
        _, counting = groups.folders("cpuacct")
        usage = {folder.relative_to(counting[-1]): folder / "cpuacct.usage" for folder in counting}
        quotas = [
            (
                _quota_v1(folder),
                usage.get(folder.relative_to(folders[-1]), folder / "cpuacct.usage"),
            )
            for folder in folders
        ]
    return [CpuGroup(quota, usage_file) for quota, usage_file in quotas if quota is not None]


def _memory_groups(groups: _Groups) -> list[MemoryGroup]:
    version, folders = groups.folders("memory")
    limit_name, usage_name = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    limits = [(_number(_read(folder / limit_name) or ""), folder) for folder in folders]
    return [
        MemoryGroup(limit, folder / usage_name, folder / "memory.stat")
        for limit, folder in limits
        if limit is not None and 0 < limit < NO_LIMIT
    ]


def _quota_v2(folder: Path) -> float | None:
    """`cpu.max` holds "quota period" in microseconds, or "max period"."""
    parts = (_read(folder / "cpu.max") or "").split()
    return _ratio(*parts) if len(parts) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    """`cpu.cfs_quota_us` is -1 where there is none."""
    return _ratio(
        _read(folder / "cpu.cfs_quota_us") or "", _read(folder / "cpu.cfs_period_us") or ""
    )


def _ratio(quota: str, period: str) -> float | None:
    granted, every = _number(quota), _number(period)
    return (
        granted / every
        if granted is not None and every is not None and granted > 0 and every > 0
        else None
    )


class _Groups:
    """Where the control groups of this process are mounted."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mounts = _mounts(_read(root / "proc/self/mountinfo") or "")
        self._paths = _paths(_read(root / "proc/self/cgroup") or "")

    def folders(self, controller: str) -> tuple[int, list[Path]]:
        """The hierarchy's version and the folders from the process's own group up to the mount; no
        folders when it is not mounted.
        """
        name = controller if controller in self._paths and controller in self._mounts else ""
        if name not in self._paths or name not in self._mounts:
            return 2, []
        mount_root, mount_point = self._mounts[name]
        top = self._root / mount_point.lstrip("/")
        below = _below(self._paths[name], mount_root)
        own = [top.joinpath(*below[:depth]) for depth in range(len(below), -1, -1)]
        return (1 if name else 2), own


def _below(path: str, mount_root: str) -> tuple[str, ...]:
    """The group's folders below the mount.

    In a container the path may be told as it is outside of it ("/docker/abc" where only that group
    is mounted, or "/../other" seen from a namespace). Then the mount itself is all that can be
    seen.
    """
    parts = PurePosixPath(path).parts
    above = PurePosixPath(mount_root).parts
    if ".." in parts or parts[: len(above)] != above:
        return ()
    return parts[len(above) :]


def _mounts(mountinfo: str) -> dict[str, tuple[str, str]]:
    """Controller -> (root of the mount inside the hierarchy, mount point).

    The v2 hierarchy is under "".
    """
    found: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        first, separator, second = line.partition(" - ")
        fields, kind = first.split(), second.split()
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        place = _unescape(fields[3]), _unescape(fields[4])
        if kind[0] == "cgroup2":
            found.setdefault("", place)
        elif kind[0] == "cgroup":
            for controller in kind[2].split(","):
                found.setdefault(controller, place)
    return found


def _paths(cgroup: str) -> dict[str, str]:
    """Controller -> path of the process's group in its hierarchy; the v2 hierarchy is under ""."""
    found: dict[str, str] = {}
    for line in cgroup.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            found.update(dict.fromkeys(parts[1].split(","), parts[2]))
    return found


def _unescape(field: str) -> str:
    """Mountinfo writes blanks and backslashes as octal numbers: "\\040"."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _fields(text: str) -> dict[str, int]:
    """`name number` lines, as in cpu.stat and memory.stat."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
