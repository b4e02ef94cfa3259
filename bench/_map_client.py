"""The caller's side of bench.map, in a process of its own: `python -m bench._map_client WHAT N`;
prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from celery import chord

import hive
from bench import _map_apps as apps

REPEATS = 5


def with_chunks(n: int) -> int:
    """Plain Celery: a chord over 20 hand-made chunks."""
    header = apps.square.chunks(zip(range(n), strict=True), max(1, n // 20)).group()
    return int(chord(header)(apps.total.s()).get(timeout=120))


def with_hive(n: int) -> int:
    """hive.map; every outcome must be readable afterwards, which is checked outside the measured
    time.
    """
    job = hive.map(apps.square, range(n), "sum", app=apps.app)
    value = int(job.result(120).value)
    checks.append(
        lambda: (
            sum(outcome.value for outcome in job.result(0).outcomes) == value
            and len(job.result(0).outcomes) == n
        )
    )
    return value


def with_huey(n: int) -> int:
    """huey's own way: a task an item."""
    return sum(apps.huey_square.map(range(n)).get(blocking=True, timeout=120))


checks: list[Callable[[], bool]] = []
WAYS = {"chunks": with_chunks, "hive": with_hive, "huey": with_huey}


def tiny(way: str, n: int) -> dict[str, float]:
    """Median seconds of a map of n tiny items and their sum."""
    run = WAYS[way]
    run(min(n, 200))
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        value = run(n)
        taken.append(time.perf_counter() - began)
        assert value == sum(number * number for number in range(n)), f"{way}: wrong sum {value}"
    assert all(check() for check in checks)
    return {"seconds": statistics.median(taken)}


def memory(n: int) -> dict[str, float]:
    """Megabytes by which the caller's resident memory peaks over its start, reading every outcome
    of a generator's items.
    """
    for _ in hive.map(apps.square, (number for number in range(2_000)), app=apps.app):
        pass
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    began = time.perf_counter()
    job = hive.map(apps.square, (number for number in range(n)), "sum", app=apps.app)
    outcomes = sum(1 for _ in job)
    result = job.result(120)
    assert (outcomes, len(result.outcomes), result.value) == (
        n,
        n,
        sum(number * number for number in range(n)),
    )
    return {
        "megabytes": (_resident("VmHWM") - before) / 1024,
        "seconds": time.perf_counter() - began,
    }


def _resident(field: str) -> int:
    """Kilobytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(field)


def waiting(n: int) -> dict[str, float]:
    """Seconds of a map of n items that wait 0.5 s each."""
    list(hive.map(apps.wait, [0.01] * 20, app=apps.app))
    began = time.perf_counter()
    result = hive.map(apps.wait, [0.5] * n, "count", app=apps.app).result(120)
    taken = time.perf_counter() - began
    assert result.value == n, result
    return {"seconds": taken}


if __name__ == "__main__":
    what, items = sys.argv[1], int(sys.argv[2])
    figures = (
        tiny(what, items) if what in WAYS else {"memory": memory, "waiting": waiting}[what](items)
    )
    print(json.dumps(figures), flush=True)
    apps.app.close()
