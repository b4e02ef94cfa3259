"""Watchdog: what one tick costs with 1,000 nodes that live and 3,000 that are gone: the processor
of who ticks, and the broker's time.

The nodes exist only in the broker. All live ones beat between two ticks, unmeasured. Of several
ticks the cheapest counts: whatever else runs on the machine only adds.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from celery import Celery

import hive
from bench._verdict import verdict
from hive.broker.link.client import BrokerClient, client_of
from hive.broker.nodes.table import NodeTable
from hive.foreman.watch.watchdog import Watchdog
from hive.settings import Settings
from tests.harness import BrokerServer
from tests.integration.channel_steps import Steps
from tests.nodes import BACKGROUND, make_facts, make_load

LIVE, GONE = 1_000, 3_000
SLOTS = 2
TICKS = 25
PROCESSOR_MS, BROKER_MS = 50.0, 10.0
SKILLS = [f"shop.skill_{number}" for number in range(10)]


class Hive:
    """A broker with many nodes, and a watchdog that leads."""

    def __init__(self, server: BrokerServer) -> None:
        settings = Settings.load(redis_host="127.0.0.1", redis_port=server.port)
        self.app = hive.install(Celery("bench-watchdog"), settings)
        self.client: BrokerClient = client_of(self.app)
        self.steps, self.table = Steps(self.client), NodeTable(self.client)
        self.nodes = [f"spore-{number}@machine-{number // 8}" for number in range(LIVE)]
        self.held: dict[str, list[str]] = {}
        self.limit = ""
        gone = [f"spore-{number}@gone-{number // 8}" for number in range(GONE)]
        for node in (*self.nodes, *gone):
            self.join(node)
        for node in gone:
            self.table.leave(node, incarnation(node))
            self.steps.restore(incarnation(node), "left")
        self.watchdog = Watchdog(self.client, self.app)
        self.watchdog._answering_since = 0.0  # the broker has answered long enough

    def join(self, node: str) -> None:
        """What a worker's start does: the channel gives it an epoch, its first beat its facts."""
        self.steps.attach(incarnation(node))
        facts = make_facts(node, incarnation=incarnation(node), capabilities=SKILLS)
        self.table.beat(incarnation(node), make_load(), facts, "")

    def beat(self) -> None:
        """All nodes that live have beaten, just now."""
        redis, key = self.client.redis, self.client.key
        now = self.client.now_ms()
        redis.zadd(key("beats"), {incarnation(node): now for node in self.nodes})
        redis.hset(key("held"), mapping={incarnation(node): self.line(node) for node in self.nodes})

    def line(self, node: str) -> str:
        return " ".join(name + self.limit for name in self.held.get(node, ()))

    def fill(self) -> None:
        """Every slot of the nodes that live gets a task."""
        for _ in range(LIVE * SLOTS):
            self.app.send_task("bench.task", (1,))
        for node in self.nodes:
            self.held[node] = self.steps.take(incarnation(node), SLOTS, served=(BACKGROUND,))
        assert sum(map(len, self.held.values())) == LIVE * SLOTS

    def grow_old(self) -> None:
        """What runs has run for an hour, as its own limit allows."""
        self.limit = ":7200"
        for node, ids in self.held.items():
            stamp = f"{incarnation(node)}|{self.client.now_ms() - 3_600_000}"
            self.client.redis.hset(
                self.client.key("reserved", node), mapping=dict.fromkeys(ids, stamp)
            )

    def broker_ms(self) -> float:
        """What the broker's scripts have taken so far, with all that they call. The few commands
        beside them take a hundredth of it, and stand in one row with those that scripts call.
        """
        stats = self.client.redis.info("commandstats")
        names = ("cmdstat_evalsha", "cmdstat_eval")
        return float(sum(stats[name]["usec"] for name in names if name in stats)) / 1000

    def measure(self) -> tuple[float, float]:
        """Processor and broker time of one tick, in ms; the least of several."""
        processor, broker = [], []
        for _ in range(TICKS):
            self.beat()
            before, began = self.broker_ms(), time.process_time()
            self.watchdog.tick()
            processor.append((time.process_time() - began) * 1000)
            broker.append(self.broker_ms() - before)
            assert self.watchdog.leads
        failing = self.client.redis.hvals(self.client.key("duties"))
        assert not [raw for raw in failing if json.loads(raw)["error"]], failing
        print(f"  processor {told(processor)}; broker {told(broker)}", flush=True)
        return min(processor), min(broker)

    def close(self) -> None:
        for router in self.app.conf.task_routes:
            router.close()
        self.watchdog.client.close()
        self.client.close()


def told(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} ms ({min(times):.2f} to {max(times):.2f})"


def incarnation(node: str) -> str:
    return f"{node}/00000001"


STATES: tuple[tuple[str, Callable[[Hive], None]], ...] = (
    ("idle", lambda _: None),
    (f"{SLOTS} tasks at each", Hive.fill),
    (f"{SLOTS} tasks at each that run for hours", Hive.grow_old),
)


def main() -> bool:
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        server = BrokerServer(Path(temporary), durable=False).start()
        try:
            cluster = Hive(server)
            for state, prepare in STATES:
                prepare(cluster)
                processor, broker = cluster.measure()
                name = f"a tick with {LIVE} nodes and {GONE} gone, {state}"
                good &= verdict(f"{name}: processor", processor, at_most=PROCESSOR_MS, unit=" ms")
                good &= verdict(f"{name}: broker", broker, at_most=BROKER_MS, unit=" ms")
            cluster.close()
        finally:
            server.kill()
    return good


if __name__ == "__main__":
    sys.exit(not main())
