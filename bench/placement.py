"""Placement by score against the shared queue, on five spores of two slots.

Burst: 1,000 tasks of 20 ms at once on equal nodes; the shares must be even, and the whole must not
take longer than from the shared queue. Burner: one spore is pinned to a core that a burner shares,
and CPU tasks of 40 ms arrive at seeded random times (open loop) at 60% of the rate that the spores
drained in this run; that spore must get the fewest tasks in each round. A round whose producer was
late (p99 over 25 ms) says nothing and is repeated.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench._verdict import verdict
from tests.harness import BrokerServer, WorkerProcess, wait_until

NAMES = [f"p{number}" for number in range(5)]
BURST = 1000
BURST_ROUNDS = 5
ARRIVALS = 190
BURN_SECONDS = 0.04
ROUNDS = 3
TRIES = 4
LATE_SECONDS = 0.025
NICENESS = 5  # of spores and burner, so that the producer keeps its times


class Spores:
    """Five spores on a private broker, and this process as their client."""

    def __init__(self, directory: Path) -> None:
        self.told = directory / "told"
        self.told.touch()
        self.server = BrokerServer(directory / "broker", durable=False).start()
        self.env = {
            **self.server.environment,
            "BENCH_FILE": str(self.told),
            "PYTHONPATH": str(Path.cwd()),
        }
        os.environ.update(self.env)
        options = ("-l", "error", "--without-gossip", "--without-mingle")
        self.workers = {
            name: WorkerProcess.celery(
                directory,
                name,
                app="bench._placed",
                env={**self.env, "BENCH_NODE": name},
                options=options,
            )
            for name in NAMES
        }
        for worker in self.workers.values():
            os.setpriority(os.PRIO_PGRP, worker.pid, NICENESS)

    def wait_online(self) -> None:
        # Only now: importing Hive reads the environment set above.
        from bench._placed import app
        from hive.broker.link.client import client_of
        from hive.broker.nodes.table import NodeTable

        table = NodeTable(client_of(app))
        wait_until(
            lambda: sum(node.online for node in table.read().values()) == len(NAMES),
            60,
            "all spores are online",
        )

    def lines(self) -> list[tuple[str, float]]:
        return [
            (name, float(seconds))
            for name, seconds in map(str.split, self.told.read_text().splitlines())
        ]

    def forget(self) -> None:
        os.truncate(self.told, 0)

    def wait_done(self, tasks: int) -> list[tuple[str, float]]:
        wait_until(lambda: self.told.read_bytes().count(b"\n") >= tasks, 120, "all have run")
        lines = self.lines()
        self.forget()
        return lines

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.kill()
        self.server.kill()


def burst(spores: Spores, placement: str) -> tuple[float, Counter[str]]:
    """Seconds for a burst of tasks of 20 ms, and each node's share."""
    from bench import _placed

    task = getattr(_placed, f"wait_{placement}")
    began = time.perf_counter()
    with _placed.app.producer_or_acquire() as producer:
        for _ in range(BURST):
            task.apply_async((0.02, time.time()), producer=producer)
    lines = spores.wait_done(BURST)
    return time.perf_counter() - began, Counter(name for name, _ in lines)


def drain_rate(spores: Spores, tasks: int = 120) -> float:
    """CPU tasks a second that the spores finish from the shared queue."""
    from bench import _placed

    for _ in range(tasks):
        _placed.burn_shared.delay(BURN_SECONDS, time.time())
    wait_until(lambda: len(spores.lines()) >= tasks // 4, 60, "a quarter has run")
    ran, began = len(spores.lines()), time.perf_counter()
    wait_until(lambda: len(spores.lines()) >= tasks, 60, "all have run")
    rate = (tasks - ran) / (time.perf_counter() - began)
    spores.forget()
    return rate


def arrivals(
    spores: Spores, placement: str, rate: float, seed: int
) -> tuple[Counter[str], float, float]:
    """Each node's share, the median response in seconds, and how late the producer was (p99,
    seconds).
    """
    from bench import _placed

    task = getattr(_placed, f"burn_{placement}")
    rng, due, late = random.Random(seed), time.perf_counter(), []
    for _ in range(ARRIVALS):
        due += rng.expovariate(rate)
        time.sleep(max(0.0, due - time.perf_counter()))
        late.append(time.perf_counter() - due)
        task.delay(BURN_SECONDS, time.time())
    lines = spores.wait_done(ARRIVALS)
    shares = Counter(dict.fromkeys(NAMES, 0))
    shares.update(name for name, _ in lines)
    return (
        shares,
        statistics.median(seconds for _, seconds in lines),
        sorted(late)[int(len(late) * 0.99)],
    )


@contextmanager
def spores_in(directory: Path) -> Iterator[Spores]:
    spores = Spores(directory)
    try:
        spores.wait_online()
        yield spores
    finally:
        spores.stop()


@contextmanager
def burner_beside(spore: WorkerProcess) -> Iterator[None]:
    """A process that uses one core, and the spore with its pool pinned to the same core."""
    core = min(os.sched_getaffinity(0))
    pool = subprocess.run(
        ["pgrep", "-g", str(spore.pid)], check=True, capture_output=True, text=True
    ).stdout.split()
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    os.setpriority(os.PRIO_PROCESS, burner.pid, NICENESS)
    try:
        for pid in (*map(int, pool), burner.pid):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})
        yield
    finally:
        burner.kill()
        burner.wait()


def judge_burst(spores: Spores) -> bool:
    ratios, worst = [], []
    burst(spores, "shared")
    for _ in range(BURST_ROUNDS):
        (shared, _), (scored, shares) = burst(spores, "shared"), burst(spores, "scored")
        ratios.append(scored / shared)
        worst.append(max(shares.values()) / (BURST / len(NAMES)))
        print(
            f"  burst: shared {shared:.2f} s, scored {scored:.2f} s, shares "
            f"{sorted(shares.values())}",
            flush=True,
        )
    good = verdict(
        "burst on 5 equal nodes: busiest node against the mean", max(worst), at_most=1.15
    )
    return (
        verdict(
            "burst on 5 equal nodes: time against the shared queue",
            statistics.median(ratios),
            at_most=1.05,
        )
        and good
    )


def undisturbed_round(spores: Spores, rate: float, seed: int) -> tuple[Counter[str], float] | None:
    """Each node's share when scored, and the response against the shared queue; None when the
    producer was late every time.
    """
    for _ in range(TRIES):
        _, shared, shared_late = arrivals(spores, "shared", rate, seed)
        shares, scored, scored_late = arrivals(spores, "scored", rate, seed)
        late = max(shared_late, scored_late)
        if late <= LATE_SECONDS:
            return shares, scored / shared
        print(f"  the producer was late (p99 {late * 1000:.0f} ms): repeated", flush=True)
    return None


def judge_burner(spores: Spores) -> bool:
    fewest = 0
    with burner_beside(spores.workers[NAMES[0]]):
        rate = 0.6 * drain_rate(spores)
        time.sleep(3)  # three heartbeats: the scores are those of the burner alone
        for number in range(ROUNDS):
            measured = undisturbed_round(spores, rate, number)
            if measured is None:
                print("  this machine is too busy to measure on", flush=True)
                continue
            shares, ratio = measured
            fewest += shares[NAMES[0]] == min(shares.values())
            others = sorted(shares[name] for name in NAMES[1:])
            print(f"  burner: its spore ran {shares[NAMES[0]]}, the others {others};", end=" ")
            print(f"response against the shared queue {ratio:.2f}", flush=True)
    return verdict(
        "rounds in which the spore beside a burner got the fewest", fewest, at_least=ROUNDS
    )


def main() -> bool:
    with tempfile.TemporaryDirectory() as temporary, spores_in(Path(temporary)) as spores:
        good = judge_burst(spores)
        return judge_burner(spores) and good


if __name__ == "__main__":
    sys.exit(not main())
