"""How much of the memory that a run demands its process uses already."""

from __future__ import annotations

import os

import psutil

from hive.spore.machine.limits import MIB


class Footprint:
    """The memory of one run in a pool process of its own, from its start on.

    Only what that process takes by itself counts. What the run keeps in shared memory, or in
    processes that it starts, and all of a run in a thread, counts as not used yet, though it is
    measured as taken: of such a run more is kept free than it needs, never less.
    """

    def __init__(self, demanded_mb: int, pid: int) -> None:
        """Measure the process before the run has begun."""
        self.demanded_mb = demanded_mb
        self._pid = None if pid == os.getpid() else pid
        self._before = self._measure()

    def unused_mb(self) -> int:
        """How many of the demanded MiB it does not use yet."""
        now = self._measure()
        if now is None or self._before is None:
            return self.demanded_mb
        return max(0, self.demanded_mb - max(0, now - self._before) // MIB)

    def _measure(self) -> int | None:
        """The bytes that only this process has; None where that cannot be told."""
        if self._pid is None:
            return None
        try:
            memory = psutil.Process(self._pid).memory_info()
        except psutil.Error:
            return None
        return int(memory.rss) - int(getattr(memory, "shared", 0))
