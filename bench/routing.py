"""How long does one routing decision take with 1,000 nodes? Must be under 10 PINGs at p99.

The table is written by real heartbeats, goes on changing at a beat a second and node while
decisions are timed, and after each decision the process waits for the broker once, as a publication
does: only then does the background refresh compete for the interpreter lock. Plain tasks, tasks
with requirements and tasks with affinity take turns. A floor on what the bound allows is the PING
itself, timed between the decisions of the same run.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

from hive.broker.link.client import BrokerClient
from hive.broker.nodes.table import BEAT, NodeTable
from hive.foreman.policy import LoadScore
from hive.foreman.router import Router
from tests.harness import BrokerServer
from tests.nodes import BACKGROUND, make_facts, make_load, make_settings

NODES = 1_000
SECONDS = 6.0
WARM_UP = 0.5
BOUND = 1.0

WISHES: tuple[dict[str, Any], ...] = (
    {},
    {"requirements": {"labels": {"zone": "a"}, "memory_mb": 4_000}},
    {},
    {"affinity": "model-7"},
    {},
    {"requirements": {"gpu": True}},
)


def node_id(number: int) -> str:
    return f"spore-{number}@host-{number // 4}"


def join_all(client: BrokerClient) -> None:
    """Start every node: an epoch, and a first beat with its facts."""
    table = NodeTable(client)
    for number in range(NODES):
        name = node_id(number)
        incarnation = f"{name}/{number:08x}"
        client.redis.hset(client.key("epochs"), incarnation, 1)
        gpus = [{"name": "H200", "memory_mb": 140_000}] if number % 10 == 0 else []
        skills = ["fetch", "web_scraping", "summarize", "scan_path", "scan_requirements"]
        facts = make_facts(
            name,
            incarnation=incarnation,
            slots=4,
            gpus=gpus,
            labels={"zone": "ab"[number % 2], "rack": f"r{number % 20}"},
            capabilities=skills,
        )
        table.beat(incarnation, make_load(), facts, "")


def beat_on(url: str, ended: multiprocessing.synchronize.Event) -> None:
    """In a process of its own: each node beats once a second."""
    client = BrokerClient(url, make_settings())
    generator = random.Random(7)
    BEAT.load(client.redis)
    while not ended.is_set():
        for first in range(0, NODES, 50):
            due = time.monotonic() + 0.05
            with client.redis.pipeline(transaction=False) as pipe:
                for number in range(first, first + 50):
                    name = node_id(number)
                    load = make_load(
                        cpu=generator.random(),
                        memory=generator.random(),
                        active=generator.randrange(5),
                    )
                    pipe.execute_command(
                        "EVALSHA",
                        BEAT.sha,
                        0,
                        "",
                        f"{name}/{number:08x}",
                        name,
                        load.packed(),
                        "",
                        "",
                        "",
                    )
                pipe.execute()
            if ended.wait(max(0.0, due - time.monotonic())):
                break
    client.close()


def timed(call: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure(client: BrokerClient) -> tuple[list[float], list[float]]:
    """Seconds of each decision and of the PING after it."""
    app = Celery("bench", set_as_current=False, broker=client.url)
    app.conf.task_default_queue = BACKGROUND
    router = Router(app, client, LoadScore.of(client.settings))
    decisions: list[float] = []
    pings: list[float] = []
    begin = time.monotonic() + WARM_UP
    try:
        while time.monotonic() < begin + SECONDS:
            wish = dict(WISHES[len(decisions) % len(WISHES)])
            decision = timed(router, "tasks.add", (1, 2), {}, wish)
            ping = timed(client.redis.ping)
            if time.monotonic() > begin or not decisions:
                decisions.append(decision)
                pings.append(ping)
        assert router("tasks.add", (1, 2), {}, {})["hive_candidates"], (
            "no candidates: nothing was measured"
        )
    finally:
        router.close()
    return decisions[1:], pings[1:]


def main() -> int:
    """Measure and print. Returns: 0 when the bound holds, else 1."""
    ended = multiprocessing.get_context("spawn").Event()
    with tempfile.TemporaryDirectory() as directory:
        server = BrokerServer(Path(directory)).start()
        client = BrokerClient(server.url, make_settings())
        nodes = multiprocessing.get_context("spawn").Process(
            target=beat_on, args=(server.url, ended), daemon=True
        )
        try:
            join_all(client)
            nodes.start()
            decisions, pings = measure(client)
        finally:
            ended.set()
            if nodes.pid is not None:
                nodes.join(10)
            client.close()
            server.kill()
    ping, p50, p99 = percentile(pings, 0.5), percentile(decisions, 0.5), percentile(decisions, 0.99)
    ratio = p99 / (10 * ping)
    ok = ratio <= BOUND
    print(
        f"{len(decisions)} decisions over {NODES} nodes: p50 {p50 * 1e6:.0f} µs, p99 "
        f"{p99 * 1e6:.0f} µs, PING p50 {ping * 1e6:.0f} µs"
    )
    print(
        f"routing p99 of a decision / 10 PINGs  ratio={ratio:.3f} must be <= {BOUND:.2f}  "
        f"{'ok' if ok else 'FAIL'}"
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
