"""Calls: what it costs to send one task through the router, and to wait for its answer, against
plain Celery.

Enqueue is measured against five registered nodes, which the publish script weighs for each task,
with nobody consuming; the round trip with one worker of two processes. Plain and Hive take turns,
each in a client process of its own on a fresh private server.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench._verdict import verdict
from tests.harness import BrokerServer, WorkerProcess

ROUNDS = 5
ENQUEUES = 600
ROUND_TRIPS = 400

NODES = """
import sys, time
from hive.broker.channel import steps
from hive.broker.nodes.table import NodeFacts, NodeLoad, NodeTable
from hive.celery import app
from hive.broker.link.client import client_of
client = client_of(app)
for n in range(5):
    node, incarnation = f"n{n}@h", f"n{n}@h/0000000{n}"
    client.run(steps.ATTACH, (), ("", node, incarnation, 1, "1", "", 1_500))
    facts = NodeFacts(node_id=node, node_name=f"n{n}", host="h", pid=1, incarnation=incarnation,
                      slots=100, cpus=1, memory_mb=1, queues=["venom:tasks:background"],
                      started_at=time.time())
    NodeTable(client).beat(incarnation, NodeLoad(0.1, 0.1, 1, 0.1, 0, 0, False), facts, held="")
"""

CLIENT = """
import json, statistics, sys, time
from bench import _plain_or_hive as bench_app

def p50(call, times):
    for _ in range(20):
        call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000

if sys.argv[1] == "enqueue":
    print(p50(bench_app.noop.delay, int(sys.argv[2])))
else:
    print(p50(lambda: bench_app.square.delay(3).get(timeout=30), int(sys.argv[2])))
"""


def measure(directory: Path, *, hive: bool) -> tuple[float, float]:
    """p50 in milliseconds of enqueue and of round trip."""
    directory.mkdir()
    server = BrokerServer(directory / "broker", durable=False).start()
    env = {
        **os.environ,
        **server.environment,
        "BENCH_HIVE": str(int(hive)),
        "PYTHONPATH": str(Path.cwd()),
    }
    env["BENCH_FILE"] = str(directory / "ran")
    worker = None

    def client(what: str, times: int) -> float:
        command = [sys.executable, "-c", CLIENT, what, str(times)]
        return float(
            subprocess.run(
                command, check=True, env=env, timeout=120, capture_output=True, text=True
            ).stdout
        )

    try:
        env["HIVE_HEARTBEAT_INTERVAL"] = "60"
        if hive:
            subprocess.run([sys.executable, "-c", NODES], check=True, env=env, timeout=60)
        enqueue = client("enqueue", ENQUEUES)
        with server.client() as connection:
            connection.flushall()
        env["HIVE_HEARTBEAT_INTERVAL"] = "1"
        options = ("-l", "error", "--without-gossip", "--without-mingle")
        worker = WorkerProcess.celery(
            directory, "calls", app="bench._plain_or_hive", env=env, options=options
        )
        return enqueue, client("round trip", ROUND_TRIPS)
    finally:
        if worker is not None:
            worker.kill()
        server.kill()


def main() -> bool:
    enqueue, round_trip = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(ROUNDS):
            plain, ours = (
                measure(Path(temporary) / f"{number}-{int(hive)}", hive=hive)
                for hive in (False, True)
            )
            print(f"  plain: enqueue {plain[0]:.3f} ms, round trip {plain[1]:.2f} ms", end="; ")
            print(f"hive: {ours[0]:.3f} ms, {ours[1]:.2f} ms", flush=True)
            enqueue.append(ours[0] / plain[0])
            round_trip.append(ours[1] / plain[1])
    good = verdict(
        "enqueue through the router against plain Celery", statistics.median(enqueue), at_most=1.15
    )
    return (
        verdict("round trip against plain Celery", statistics.median(round_trip), at_most=1.0)
        and good
    )


if __name__ == "__main__":
    sys.exit(not main())
