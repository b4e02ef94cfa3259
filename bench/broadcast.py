"""Broadcast: how long until all of 20 spores have answered a command.

The spores are real workers with a thread each; 200 broadcasts one after the other, as
`MessageBroker.broadcast_control` sends them.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from celery import Celery

import hive
from bench._verdict import verdict
from hive.broker.message_broker import MessageBroker
from hive.settings import Settings
from tests.harness import BrokerServer, WorkerProcess, wait_until

SPORES = 20
BROADCASTS = 200
START_SECONDS = 180.0
WAIT_SECONDS = 2.0
OPTIONS = ("-P", "threads", "--without-gossip", "--without-mingle")


def measure(broker: MessageBroker) -> tuple[list[float], int]:
    """Milliseconds of each broadcast, in ascending order, and the fewest replies that one got."""

    async def broadcasts() -> tuple[list[float], int]:
        took, fewest = [], SPORES
        for _ in range(BROADCASTS):
            began = time.perf_counter()
            replies = await broker.broadcast_control("PING", wait_timeout=WAIT_SECONDS)
            took.append((time.perf_counter() - began) * 1000)
            fewest = min(fewest, sum(reply == {"ok": "pong"} for reply in replies.values()))
        await broker.disconnect()
        return sorted(took), fewest

    return asyncio.run(broadcasts())


def main() -> int:
    """Run the bench. Returns: 0 when its bounds hold, else 1."""
    with tempfile.TemporaryDirectory(prefix="hive-bench-") as directory:
        server = BrokerServer(Path(directory) / "broker", durable=False).start()
        spores: list[WorkerProcess] = []
        try:
            app = hive.install(
                Celery("bench"), Settings.load(redis_host="127.0.0.1", redis_port=server.port)
            )
            broker = MessageBroker(app)
            for number in range(SPORES):
                env = {**server.environment, "PYTHONPATH": str(Path.cwd())}
                spores.append(
                    WorkerProcess.celery(
                        Path(directory), f"spore-{number}", concurrency=1, env=env, options=OPTIONS
                    )
                )
            wait_until(
                lambda: sum(node.online for node in broker.nodes.read().values()) == SPORES,
                START_SECONDS,
                "all spores online",
            )
            # The first broadcast opens the connections.
            wait_until(
                lambda: (
                    len(asyncio.run(broker.broadcast_control("PING", wait_timeout=WAIT_SECONDS)))
                    == SPORES
                ),
                30,
                "all spores answer",
            )
            took, fewest = measure(broker)
        finally:
            for spore in spores:
                spore.kill()
            server.kill()
    verdict(f"broadcast to {SPORES} spores, p50", took[len(took) // 2], unit=" ms")
    good = verdict("fewest replies to one of them", fewest, at_least=SPORES)
    return (
        0
        if verdict(
            f"broadcast to {SPORES} spores, p99",
            took[int(len(took) * 0.99)],
            at_most=100,
            unit=" ms",
        )
        and good
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
