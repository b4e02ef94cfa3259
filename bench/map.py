"""hive.map: tiny items against Celery's chord over 20 hand-made chunks and against huey; a million
items' memory; items that wait.

Each way has two worker processes and a private server of its own; the three take turns, and the
figure is the median of the rounds' ratios. Every result is checked, and Hive's outcomes are all
read back afterwards.

BENCH_MAP_SCALE=0.01 makes everything that much smaller, to see that it works; its figures mean
nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench._verdict import verdict
from tests.harness import BrokerServer, WorkerProcess, wait_until

SCALE = float(os.environ.get("BENCH_MAP_SCALE", "1"))
TINY = max(20, int(10_000 * SCALE))
MANY = max(1_000, int(1_000_000 * SCALE))
ROUNDS = 3
SPORES = 5
QUIET = ("-l", "error", "--without-gossip", "--without-mingle")


class Site:
    """A private server with the workers of one way, and clients of it."""

    def __init__(self, directory: Path, way: str) -> None:
        self.directory = directory
        self.way = way
        self.server = BrokerServer(directory / "broker", durable=False).start()
        self.environment = {
            **self.server.environment,
            "PYTHONPATH": str(Path.cwd()),
            "BENCH_WITH": way,
        }
        self.workers: list[WorkerProcess] = []

    def start(self, workers: int) -> None:
        """Start workers of two processes each, and wait until they are there."""
        for number in range(workers):
            name = f"{self.way}{number}"
            if self.way == "huey":
                command = (
                    sys.executable,
                    "-m",
                    "huey.bin.huey_consumer",
                    "bench._map_apps.huey",
                    "-w",
                    "2",
                    "-k",
                    "process",
                )
                self.workers.append(
                    WorkerProcess(self.directory / f"{name}.log", *command, env=self.environment)
                )
            else:
                app = "bench._map_apps"
                self.workers.append(
                    WorkerProcess.celery(
                        self.directory, name, app=app, env=self.environment, options=QUIET
                    )
                )
        if self.way == "hive":
            with self.server.client() as client:
                wait_until(
                    lambda: client.hlen("venom:nodes:static") == workers,
                    60,
                    f"{workers} spores online",
                )
        elif self.way == "huey":
            wait_until(
                lambda: "consumer started" in self.workers[0].output(), 30, "huey's consumer starts"
            )

    def ask(self, what: str, n: int) -> dict[str, float]:
        command = [sys.executable, "-m", "bench._map_client", what, str(n)]
        said = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert said.returncode == 0, f"{what}: {said.stderr[-2000:]}"
        return {
            name: float(figure) for name, figure in json.loads(said.stdout.splitlines()[-1]).items()
        }

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.server.kill()


@contextmanager
def site(way: str, workers: int = 1) -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as directory:
        opened = Site(Path(directory), way)
        try:
            opened.start(workers)
            yield opened
        finally:
            opened.close()


def tiny_items() -> bool:
    """10,000 tiny items and their sum, three ways."""
    by_chunks, by_huey = [], []
    for _ in range(ROUNDS):
        seconds = {}
        for way, what in (("plain", "chunks"), ("hive", "hive"), ("huey", "huey")):
            with site(way) as opened:
                seconds[what] = opened.ask(what, TINY)["seconds"]
        print(
            "  " + ", ".join(f"{what} {taken:.3f} s" for what, taken in seconds.items()), flush=True
        )
        by_chunks.append(seconds["chunks"] / seconds["hive"])
        by_huey.append(seconds["huey"] / seconds["hive"])
    good = verdict(
        "map of tiny items, times as fast as Celery's chord over 20 chunks: ratio",
        statistics.median(by_chunks),
        at_least=1.0,
    )
    return (
        verdict(
            "map of tiny items, times as fast as huey: ratio",
            statistics.median(by_huey),
            at_least=20.0,
        )
        and good
    )


def caller_memory() -> bool:
    """A million items from a generator."""
    with site("hive") as opened:
        figures = opened.ask("memory", MANY)
    print(f"  {MANY} items of a generator in {figures['seconds']:.2f} s", flush=True)
    return verdict(
        "caller's memory grows while it maps a generator",
        figures["megabytes"],
        at_most=20.0,
        unit=" MB",
    )


def waiting_items() -> bool:
    """Items of 0.5 s on five spores of two slots, and on one."""
    few, many = 20, max(20, int(100 * SCALE))
    with site("hive", SPORES) as opened:
        ideal = few * 0.5 / (2 * SPORES)
        ratios = [opened.ask("waiting", few)["seconds"] / ideal for _ in range(ROUNDS)]
        five = opened.ask("waiting", many)["seconds"]
    with site("hive") as opened:
        one = opened.ask("waiting", many)["seconds"]
    print(f"  {many} waiting items: one spore {one:.2f} s, five {five:.2f} s", flush=True)
    good = verdict(
        "20 items of 0.5 s on 10 slots, times the ideal: ratio",
        statistics.median(ratios),
        at_most=1.25,
    )
    return (
        verdict("five spores against one, waiting items: ratio", one / five, at_least=4.7) and good
    )


def main() -> bool:
    results = [bench() for bench in (tiny_items, caller_memory, waiting_items)]
    return all(results)


if __name__ == "__main__":
    sys.exit(not main())
