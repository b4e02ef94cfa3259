"""The soak: a mixed load for a long time, while memory and keys are watched: `make soak`, `python
-m tests.chaos.soak [minutes] [tasks/s]`.

Each minute a line tells the memory of every kind of process and how many keys of each kind there
are. Two things are judged: the memory of the last two minutes against that of the two after the
first five (two, since the broker remembers finished publications in sets of two minutes each), and
what is left in the broker when everything has ended and every short-lived key has had its time.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

import psutil
from celery import chord

import hive
from bench._verdict import verdict
from tests.chaos import soak_app as tasks
from tests.chaos.cluster import ChaosCluster
from tests.docs.keys import DocumentedKey, documented_keys
from tests.harness import wait_until
from tests.integration.cluster import REPOSITORY

SETTLED = 5.0
"""Minutes that caches may take to fill."""
WINDOW = 2.0
GROWTH = 0.05
SHORT_LIVED = 300
"""Seconds: what has a time to live up to this must be gone in the end."""

STAYS = (
    "venom:counters", "venom:account", "venom:requirements", "venom:nodes:<>", "venom:lease:<>",
    "venom:wake:<>", "venom:format", "venom:heard_since", "_kombu.binding<>",
)  # fmt: skip
"""Keys without a time to live that belong to the hive itself, however idle it is; each is bounded.
"""


class Load:
    """Sends, each second, `rate` tasks of all kinds; what it waits for itself must have the right
    answer.
    """

    def __init__(self, cluster: ChaosCluster, rate: int) -> None:
        self._app = tasks.with_short_results(cluster.app)
        self._rate = rate
        self.sent = 0
        self._checks: list[Callable[[], None]] = []

    def one_second(self, second: int) -> None:
        """Send one second's tasks; a part of those of the second before must be done by now, or
        soon.
        """
        checks, self._checks = self._checks, []
        with self._app.producer_or_acquire() as producer:
            for number in range(self._rate):
                self._one(number, producer)
        if second % 2 == 0:
            self._app.control.revoke(tasks.echo.apply_async((0,), countdown=3).id)
        if second % 5 == 0:
            self._chord()
        if second % 10 == 0:
            self._job()
        for check in checks:
            check()

    def settle(self) -> None:
        checks, self._checks = self._checks, []
        for check in checks:
            check()

    def _one(self, number: int, producer: object) -> None:
        self.sent += 1
        share = number % 20
        if share == 0:
            tasks.fails.apply_async(producer=producer)
        elif share == 1:
            tasks.tries_again.apply_async(producer=producer)
        elif share == 2:
            tasks.echo.apply_async((number,), countdown=2, producer=producer)
        elif share < 9:
            result = tasks.echo.apply_async((number,), producer=producer)
            if number % 60 == 5:
                self._checks.append(lambda: _equal(result.get(timeout=60), number))
        else:
            tasks.nothing.apply_async(producer=producer)

    def _chord(self) -> None:
        self.sent += 11
        result = chord([tasks.echo.s(number) for number in range(10)])(tasks.total.s())
        self._checks.append(lambda: _equal(result.get(timeout=60), 45))

    def _job(self) -> None:
        job = hive.map(tasks.echo, range(30), "sum", app=self._app)
        self._checks.append(lambda: _equal(job.result(60).value, 435))


def _equal(found: object, expected: object) -> None:
    assert found == expected, (found, expected)


class Watch:
    """What processes and keys take."""

    def __init__(self, cluster: ChaosCluster) -> None:
        self._cluster = cluster
        self._kinds = documented_keys((REPOSITORY / "docs/keys.md").read_text())
        self._samples: list[tuple[float, dict[str, float]]] = []

    def sample(self, minute: float) -> dict[str, float]:
        """Megabytes by kind of process: proportional set sizes; of the broker also what it has
        allocated, which no fragmentation blurs.
        """
        memory: dict[str, float] = defaultdict(float)
        memory["broker"] = self._cluster.client.redis.info("memory")["used_memory"] / 2**20
        for kind, process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                memory[kind] += process.memory_full_info().pss / 2**20
        self._samples.append((minute, dict(memory)))
        return dict(memory)

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        assert self._cluster.server.process is not None
        assert self._cluster.nexus is not None
        yield "broker-pss", psutil.Process(self._cluster.server.process.pid)
        yield "nexus", psutil.Process(self._cluster.nexus.pid)
        for spore in self._cluster.by_name.values():
            worker = spore.worker()
            if worker is not None:
                yield "workers", worker
            if spore.supervised:
                yield "supervisors", psutil.Process(spore.process.pid)
            for child in spore.pool():
                yield "children", child

    def keys(self) -> Counter[str]:
        """How many there are of each row of docs/keys.md, by its name there; with a question mark
        those of none.
        """
        return Counter(
            self.kind_of(raw.decode()) for raw in self._cluster.client.redis.scan_iter(count=1000)
        )

    def kind_of(self, key: str) -> str:
        of_queues = [row for row in self._kinds if row.matches(key)]
        # The most particular row: the one whose name leaves least open.
        best: DocumentedKey | None = max(of_queues, key=lambda row: len(row.name), default=None)
        return best.name if best else f"? {key}"

    def growth(self) -> dict[str, float]:
        """By kind of process: the last window's memory over that of the window after the caches
        have filled; empty when too short.
        """
        end = self._samples[-1][0]
        if end < SETTLED + 2 * WINDOW:
            return {}
        return {
            kind: self._mean(kind, end - WINDOW, end) / self._mean(kind, SETTLED, SETTLED + WINDOW)
            for kind in self._samples[-1][1]
        }

    def _mean(self, kind: str, begin: float, end: float) -> float:
        return mean(memory[kind] for minute, memory in self._samples if begin <= minute <= end)

    def without_owner(self) -> list[str]:
        """Keys that no row of docs/keys.md names, or that nothing will ever remove."""
        redis, found = self._cluster.client.redis, []
        for raw in redis.scan_iter(count=1000):
            kind, ttl = self.kind_of(raw.decode()), redis.ttl(raw)
            if kind.startswith("?") or (
                ttl == -1 and not kind.startswith(tuple(name.partition("<")[0] for name in STAYS))
            ):
                found.append(raw.decode())
        return sorted(found)

    def short_lived(self) -> list[bytes]:
        redis = self._cluster.client.redis
        return [raw for raw in redis.scan_iter(count=1000) if 0 <= redis.ttl(raw) <= SHORT_LIVED]


class SoakCluster(ChaosCluster):
    application = "tests.chaos.soak_app"


def come_to_rest(cluster: ChaosCluster, load: Load) -> None:
    """Let everything end, then stop spores and nexus as people do."""
    load.settle()
    client = cluster.client
    wait_until(lambda: not client.redis.exists(client.key("entries")), 120, "everything is done")
    for spore in cluster.by_name.values():
        spore.process.stop()
    assert cluster.nexus is not None
    cluster.nexus.stop()


def soak(cluster: ChaosCluster, minutes: float, rate: int) -> bool:
    load, watch = Load(cluster, rate), Watch(cluster)
    begun, second = time.monotonic(), 0
    while (elapsed := time.monotonic() - begun) < 60 * minutes:
        load.one_second(second)
        if second % 5 == 0:
            memory = watch.sample(elapsed / 60)
            if second % 60 == 0:
                _tell(elapsed / 60, load, cluster, memory, watch.keys())
        # After a long pause the load does not catch up.
        second = max(second + 1, int(elapsed) - 5)
        time.sleep(max(0.0, begun + second - time.monotonic()))
    growth = watch.growth()
    come_to_rest(cluster, load)
    print(f"at rest, waiting up to {SHORT_LIVED} s for what lives for a while", flush=True)
    doomed = watch.short_lived()
    wait_until(
        lambda: not doomed or not cluster.client.redis.exists(*doomed),
        SHORT_LIVED + 60,
        "what lives for a while is gone",
    )
    good = True
    for kind, ratio in sorted(growth.items()):
        bounded = kind != "broker-pss"  # the allocator keeps what a peak has taken
        good &= verdict(
            f"soak: memory of {kind}, end over settled",
            ratio,
            at_most=1 + GROWTH if bounded else None,
        )
    left = watch.without_owner()
    print("left in the broker:", dict(watch.keys()), *left, sep="\n  ", flush=True)
    return verdict("soak: keys without an owner", len(left), at_most=0) and good


def _tell(
    minute: float, load: Load, cluster: ChaosCluster, memory: dict[str, float], keys: Counter[str]
) -> None:
    megabytes = "  ".join(f"{kind} {value:.1f}" for kind, value in sorted(memory.items()))
    print(
        f"{minute:5.1f} min  sent {load.sent}  done {cluster.counters().get('done', 0)}  MB: "
        f"{megabytes}",
        flush=True,
    )
    print(
        "           keys:",
        "  ".join(
            f"{kind} {count}" for kind, count in sorted(keys.items()) if count > 1 or "?" in kind
        ),
        flush=True,
    )


def main(minutes: float = 30.0, rate: int = 200) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        cluster = SoakCluster(Path(directory), hive_task_timeout=20.0)
        try:
            cluster.start_all(2)
            return soak(cluster, minutes, rate)
        except BaseException as error:
            error.add_note(cluster.logs())
            raise
        finally:
            cluster.close()


if __name__ == "__main__":
    sys.exit(not main(*map(float, sys.argv[1:2]), *map(int, sys.argv[2:3])))
