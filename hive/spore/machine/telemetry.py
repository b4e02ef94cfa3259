"""What a node measures for every heartbeat: how busy its CPUs are, how full its memory is."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from hive.spore.machine.limits import MIB, ROOT, Limits, affinity, read_limits

# Shorter intervals hold too few of the kernel's 10 ms ticks to be a share of anything.
SHORTEST_INTERVAL = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    cpu: 0..1, of the processors that this process may use, over the interval since the sample
        before.
    memory: 0..1, of the control group's limit where there is one, of the machine else.
    memory_free_mb: MiB that this process could still take.
    load1: the machine's load average of one minute.
    """

    cpu: float
    memory: float
    memory_free_mb: int
    load1: float


@dataclass(frozen=True, slots=True)
class _Counters:
    """What the kernel had counted at one instant (seconds). cores: CPU number -> (busy, total);
    groups: used by each group with a quota.
    """

    at: float
    cores: dict[int, tuple[float, float]]
    groups: tuple[float | None, ...]


class Sampler:
    """Measures the node; `sample` is called once a heartbeat, always by the same thread.

    Quotas and limits are read once, at the start; the affinity is asked for at every sample, since
    it costs 2 µs and people change it on running processes.
    """

    def __init__(self, limits: Limits | None = None, *, root: Path = ROOT) -> None:
        self.limits = read_limits(root) if limits is None else limits
        self._root = root
        self._cpu = 0.0
        self._before = self._count()

    def sample(self) -> Sample:
        """Measure now; `cpu` covers the time since the call before (the first: since the start)."""
        now = self._count()
        interval = now.at - self._before.at
        if interval >= SHORTEST_INTERVAL:
            busy = _busy_share(self._before.cores, now.cores, affinity())
            self._cpu = _clamped(max(busy, self._quota_share(now, interval)))
            self._before = now
        memory, free = self._memory()
        return Sample(
            cpu=self._cpu,
            memory=memory,
            memory_free_mb=free // MIB,
            load1=os.getloadavg()[0],
        )

    def _count(self) -> _Counters:
        groups = tuple(group.used_seconds() for group in self.limits.cpu_groups)
        return _Counters(time.monotonic(), _core_times(self._root), groups)

    def _quota_share(self, now: _Counters, interval: float) -> float:
        """The largest usage of a group over its own quota; that group throttles the process."""
        shares = [
            (used - before) / interval / group.quota
            for group, before, used in zip(
                self.limits.cpu_groups, self._before.groups, now.groups, strict=True
            )
            if before is not None and used is not None
        ]
        return max(shares, default=0.0)

    def _memory(self) -> tuple[float, int]:
        """How full memory is (0..1, the fullest group), and the bytes left before the first limit.

        The machine's own memory counts as a limit.
        """
        machine = psutil.virtual_memory()
        held = [
            (used, group.limit)
            for group in self.limits.memory_groups
            if (used := group.used_bytes()) is not None
        ]
        # A limit above the machine's memory is none.
        limited = [(used, limit) for used, limit in held if limit < machine.total]
        share = max((used / limit for used, limit in limited), default=machine.percent / 100)
        free = min([machine.available, *(limit - used for used, limit in held)])
        return _clamped(share), max(0, free)


def _core_times(root: Path) -> dict[int, tuple[float, float]]:
    """CPU number -> (busy, total) seconds since boot.

    Read from /proc/stat, which names each CPU: psutil's list closes up the gap of an offline CPU,
    so its positions are no CPU numbers.
    """
    try:
        lines = (root / "proc/stat").read_text().splitlines()
    except OSError:
        return dict(
            enumerate((sum(core) - core.idle, sum(core)) for core in psutil.cpu_times(percpu=True))
        )
    tick = os.sysconf("SC_CLK_TCK")
    cores: dict[int, tuple[float, float]] = {}
    for line in lines:
        name, *numbers = line.split()
        if name.startswith("cpu") and name != "cpu":
            # user nice system idle iowait irq softirq steal; guest times, which follow, are part of
            # user and nice.
            ticks = [int(number) / tick for number in numbers[:8]]
            cores[int(name[3:])] = (sum(ticks) - sum(ticks[3:5]), sum(ticks))
    return cores


def _busy_share(
    before: dict[int, tuple[float, float]],
    now: dict[int, tuple[float, float]],
    allowed: frozenset[int],
) -> float:
    """Busy share (0..1) of the allowed CPUs between two readings."""
    common = before.keys() & now.keys()
    counted = common & allowed or common
    total = sum(now[core][1] - before[core][1] for core in counted)
    busy = sum(now[core][0] - before[core][0] for core in counted)
    return busy / total if total > 0 else 0.0


def _clamped(share: float) -> float:
    return min(1.0, max(0.0, share))
