"""Watchdog: what one tick costs with 1,000 nodes that live and 3,000 that are gone: the processor
of who ticks, and the broker's time.

The nodes exist only in the broker. All live ones beat between two ticks, unmeasured. Of several
ticks the lower quartile counts: whatever else runs on the machine only adds.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

import hive
from bench._verdict import verdict
from hive.broker.channel import steps
from hive.broker.link.client import BrokerClient, client_of
from hive.broker.link.scripts import Script
from hive.broker.nodes.table import BEAT, LEAVE
from hive.foreman.watch.watchdog import Watchdog
from hive.settings import Settings
from tests.harness import BrokerServer
from tests.nodes import BACKGROUND, make_facts, make_load

LIVE, GONE = 1_000, 3_000
SLOTS = 2
TICKS = 25
PROCESSOR_MS, BROKER_MS = 50.0, 10.0
SKILLS = [f"shop.skill_{number}" for number in range(10)]


class Hive:
    """A broker with many nodes, and a watchdog that leads."""

    def __init__(self, directory: Path) -> None:
        self.server = BrokerServer(directory, durable=False).start()
        settings = Settings.load(redis_host="127.0.0.1", redis_port=self.server.port)
        self.app = hive.install(Celery("bench-watchdog"), settings)
        self.client: BrokerClient = client_of(self.app)
        self.nodes = [f"spore-{number}@machine-{number // 8}" for number in range(LIVE)]
        self.held: dict[str, list[str]] = {}
        self.limit = ""
        gone = [f"spore-{number}@gone-{number // 8}" for number in range(GONE)]
        for steps_of in (attached, first_beat):
            self.run(*(steps_of(node) for node in (*self.nodes, *gone)))
        self.run(*((LEAVE, (), (incarnation(node), node)) for node in gone))
        self.run(
            *((steps.RESTORE, (), (node, incarnation(node), 0, 0, 0, "left")) for node in gone)
        )
        self.watchdog = Watchdog(self.client, self.app)
        self.watchdog._answering_since = 0.0  # the broker has answered long enough

    def run(self, *calls: tuple[Script, tuple[str, ...], tuple[Any, ...]]) -> list[Any]:
        """Many calls of scripts, of one kind each, at once."""
        for script in {id(script): script for script, _, _ in calls}.values():
            script.load(self.client.redis)
        with self.client.redis.pipeline(transaction=False) as pipe:
            for script, keys, arguments in calls:
                pipe.evalsha(script.sha, len(keys), *keys, self.client.prefix, *arguments)
            return list(pipe.execute())

    def beat(self) -> None:
        load = make_load(active=SLOTS).packed()
        self.run(
            *(
                (BEAT, (), (incarnation(node), node, load, self.held_line(node), "", ""))
                for node in self.nodes
            )
        )

    def held_line(self, node: str) -> str:
        return " ".join(name + self.limit for name in self.held.get(node, ()))

    def fill(self) -> None:
        """Every slot of the nodes that live gets a task."""
        for _ in range(LIVE * SLOTS):
            self.app.send_task("bench.task", (1,))
        taken = self.run(
            *(
                (steps.RESERVE, (BACKGROUND + "\6\0265",), (node, incarnation(node), 1, SLOTS, ""))
                for node in self.nodes
            )
        )
        for node, reply in zip(self.nodes, taken, strict=True):
            self.held[node] = [publish_id.decode() for publish_id in reply[3::7]]
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
        """Processor and broker time of one tick, in ms; the lower quartiles of several."""
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
        return lower_quartile(processor), lower_quartile(broker)


def lower_quartile(times: list[float]) -> float:
    return statistics.quantiles(times, n=4)[0]


def told(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} ms ({min(times):.2f} to {max(times):.2f})"


def incarnation(node: str) -> str:
    return f"{node}/00000001"


def attached(node: str) -> tuple[Script, tuple[str, ...], tuple[Any, ...]]:
    return steps.ATTACH, (), (node, incarnation(node), 1, "1")


def first_beat(node: str) -> tuple[Script, tuple[str, ...], tuple[Any, ...]]:
    facts = make_facts(node, capabilities=SKILLS, versions={"hive": "1", "celery": "5"})
    described = (f"{facts.started_at:.3f}", facts.model_dump_json())
    return BEAT, (), (incarnation(node), node, make_load().packed(), "", *described)


STATES: tuple[tuple[str, Callable[[Hive], None]], ...] = (
    ("idle", lambda _: None),
    (f"{SLOTS} tasks at each", Hive.fill),
    (f"{SLOTS} tasks at each that run for hours", Hive.grow_old),
)


def main() -> bool:
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        cluster = Hive(Path(temporary))
        try:
            for state, prepare in STATES:
                prepare(cluster)
                processor, broker = cluster.measure()
                name = f"a tick with {LIVE} nodes and {GONE} gone, {state}"
                good &= verdict(f"{name}: processor", processor, at_most=PROCESSOR_MS, unit=" ms")
                good &= verdict(f"{name}: broker", broker, at_most=BROKER_MS, unit=" ms")
        finally:
            cluster.watchdog.client.close()
            cluster.server.kill()
    return good


if __name__ == "__main__":
    sys.exit(not main())
