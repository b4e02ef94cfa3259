"""Programs that know nothing of Hive, beside a spore: a producer, a caller of commands, a listener
to events, Flower.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import WorkerProcess, free_port, wait_until
from tests.integration.cluster import Cluster

# All that a program has to know: the broker's address, the queue, and where commands go.
STOCK = """
from celery import Celery, chain, chord, group, signature

app = Celery("stock", broker={url!r}, backend={url!r})
app.conf.update(
    task_default_queue="venom:tasks:background",
    control_exchange="venom:broadcast",
    worker_send_task_events=True,
)


def add(*args, **options):
    return app.signature("tests.integration.jobs.add_numbers", args=args, options=options)
"""


class Stock:
    """A directory with a Celery application in which Hive is not installed, and programs that use
    it.
    """

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        (directory / "stock.py").write_text(STOCK.format(url=url))

    def run(self, program: str) -> Any:
        """Run a program in a process of its own; returns what it prints, which is JSON."""
        program = (
            f"import json, sys\nfrom stock import *\n{program}\nassert 'hive' not in sys.modules"
        )
        return json.loads(self._output(sys.executable, "-c", program))

    def celery(self, *arguments: str) -> str:
        return self._output(sys.executable, "-m", "celery", "-A", "stock", *arguments)

    def _output(self, *command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.directory)}
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("stock"))
    try:
        cluster.spawn("a", options=("-E",))
        cluster.wait_online("a")
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def stock(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(tmp_path_factory.mktemp("programs"), cluster.server.url)


@pytest.mark.parametrize(
    ("sent", "result"),
    [
        ("add(1, 2)", 3),
        ("add(1, 2, priority=3)", 3),
        ("add(1, 2, countdown=1)", 3),
        ("chain(add(1, 2), add(3))", 6),
        ("group(add(1, 2), add(3, 4))", [3, 7]),
        ("chord([add(1, 2), add(3, 4)], app.signature('celery.accumulate'))", [[3, 7]]),
    ],
)
def test_what_a_stock_producer_sends_runs_and_has_a_result(
    stock: Stock, sent: str, result: Any
) -> None:
    assert stock.run(f"print(json.dumps({sent}.apply_async().get(timeout=60)))") == result


def test_stock_commands_reach_a_spore(stock: Stock) -> None:
    assert "a@h: OK" in stock.celery("inspect", "ping", "--timeout", "10", "--destination", "a@h")
    assert "add_numbers" in stock.celery(
        "inspect", "registered", "--timeout", "10", "--destination", "a@h"
    )
    assert stock.run(
        "print(json.dumps(app.control.inspect(['a@h'], "
        "timeout=10).active_queues()['a@h'][0]['name']))"
    )


def test_a_stock_programs_revocation_is_obeyed(stock: Stock) -> None:
    program = """
from celery.exceptions import TaskRevokedError
later = add(1, 2).apply_async(countdown=2)
later.revoke()
try:
    later.get(timeout=60)
except TaskRevokedError:
    print(json.dumps(later.status))
"""
    assert stock.run(program) == "REVOKED"


def test_events_reach_a_stock_listener(stock: Stock) -> None:
    program = """
seen = []
with app.connection() as connection:
    def hear(event):
        seen.append(event["type"])
        receiver.should_stop = {"task-succeeded", "worker-heartbeat"} <= set(seen)
    receiver = app.events.Receiver(connection, handlers={"*": hear})
    add(1, 2).apply_async(countdown=1)
    receiver.capture(limit=None, timeout=60, wakeup=False)
wanted = {"task-received", "task-started", "task-succeeded", "worker-heartbeat"}
print(json.dumps(sorted(set(seen) & wanted)))
"""
    assert stock.run(program) == [
        "task-received",
        "task-started",
        "task-succeeded",
        "worker-heartbeat",
    ]


@pytest.mark.slow
def test_a_stock_flower_shows_the_spore_its_tasks_and_its_queues(stock: Stock) -> None:
    port = free_port()
    command = (
        sys.executable,
        "-m",
        "celery",
        "-A",
        "stock",
        "flower",
        "--address=127.0.0.1",
        f"--port={port}",
    )
    environment = {"PYTHONPATH": str(stock.directory), "FLOWER_UNAUTHENTICATED_API": "true"}
    flower = WorkerProcess(
        stock.directory / "flower.log", *command, env=environment, cwd=stock.directory
    )

    def asked(path: str) -> Any:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/api/{path}", timeout=30
            ) as answer:
                return json.load(answer)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return None

    try:
        wait_until(
            lambda: (asked("workers?refresh=1&workername=a@h") or {}).get("a@h"),
            what="the spore is shown",
        )
        stock.run("print(json.dumps(add(1, 2).apply_async().get(timeout=60)))")
        shown = wait_until(
            lambda: [
                task for task in (asked("tasks") or {}).values() if task["state"] == "SUCCESS"
            ],
            what="a task is shown",
        )
        assert shown[0]["name"] == "tests.integration.jobs.add_numbers"
        queues = {
            queue["name"]: queue["messages"] for queue in asked("queues/length")["active_queues"]
        }
        assert queues["venom:tasks:background"] == 0
    finally:
        flower.kill()
