"""What a hive has to be able to do whatever lies between it and its broker: a small application,
two spores, one thing after another.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from celery import chord
from celery.exceptions import TaskRevokedError

import hive
from hive import Foreman, MessageBroker
from hive.broker.link.client import client_of
from hive.broker.nodes.table import NodeTable
from tests.harness import WorkerProcess, wait_until
from tests.integration import jobs  # noqa: F401 - APPLICATION's skills
from tests.integration.cluster import REPOSITORY

APPLICATION = """
import os, time

from celery import Celery

import hive
from tests.integration.jobs import add_numbers

app = Celery("essentials_app")
if os.environ.get("ESSENTIALS_PREFIX"):
    app.conf.broker_transport_options = {"global_keyprefix": os.environ["ESSENTIALS_PREFIX"]}
hive.install(app)


@app.task(shared=False)
def total(values):
    return sum(values)


@app.task(bind=True, shared=False)
def retried(self):
    if not self.request.retries:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task(bind=True, shared=False)
def dies_with_its_node(self):
    if not self.request.hive["deaths"]:
        os.kill(os.getppid(), 9)
        time.sleep(60)
    return self.request.hive["deaths"]


@app.task(shared=False)
@hive.idempotent(key="{key}")
def once(key):
    return time.time()
"""


class Essentials:
    """The application in this process, and its spores. Close it, whatever happened."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        paths = f"{directory}{os.pathsep}{REPOSITORY}"
        self.environment = {**environment, "HIVE_HEARTBEAT_INTERVAL": "0.3", "PYTHONPATH": paths}
        (directory / "essentials_app.py").write_text(APPLICATION)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.syspath_prepend(str(directory))
            self.tasks: Any = importlib.import_module("essentials_app")
        self.app = self.tasks.app
        self.client = client_of(self.app)
        self.spores: list[WorkerProcess] = []

    def start(self, *names: str) -> None:
        """Start spores as they are by default, with mingle, gossip and events."""
        for name in names:
            spore = WorkerProcess.celery(
                self.directory, name, app="essentials_app", env=self.environment, options=("-E",)
            )
            self.spores.append(spore)
        table = NodeTable(self.client)
        wait_until(
            lambda: sum(node.online for node in table.read().values()) == len(names),
            30,
            self.logs(),
        )

    def logs(self) -> str:
        return "\n".join(spore.output()[-3000:] for spore in self.spores)

    def all_work(self) -> None:
        """Everything below but the death of a node."""
        with Events(self.app) as events:
            self.tasks_work()
            wait_until(
                lambda: {"task-succeeded", "worker-heartbeat"} <= events.seen, what="events come"
            )
        self.jobs_work()
        self.commands_work()
        asyncio.run(self.classes_work())

    def tasks_work(self) -> None:
        add, total = self.tasks.add_numbers, self.tasks.total
        node = next(iter(NodeTable(self.client).read()))
        sent = [
            add.delay(1, 1),
            add.apply_async((1, 1), countdown=0.2, priority=9),
            add.apply_async((1, 1), queue=self.client.settings.hive_high_priority_queue),
            add.apply_async((1, 1), requirements={"node": node}),
            add.apply_async((1, 1), requirements={"memory_mb": 1}, affinity="key"),
            chord([add.si(0, 1), add.si(0, 1)])(total.s()),
        ]
        assert [result.get(timeout=60) for result in sent] == [2] * len(sent)
        assert self.tasks.retried.delay().get(timeout=60) == 1
        first, again = self.tasks.once.delay("key"), self.tasks.once.delay("key")
        assert first.get(timeout=60) == again.get(timeout=60)
        delayed = add.apply_async((1, 1), countdown=3600)
        delayed.revoke()
        with pytest.raises(TaskRevokedError):
            delayed.get(timeout=60)
        delayed.forget()

    def jobs_work(self) -> None:
        job = hive.map(self.tasks.add_numbers, range(1, 51), reduce="sum", app=self.app)
        assert job.result(timeout=20).value == sum(range(1, 51))

        async def values() -> list[Any]:
            return sorted(
                [
                    outcome.value
                    async for outcome in hive.map(
                        self.tasks.add_numbers, iter(range(1, 6)), app=self.app
                    )
                ]
            )

        assert asyncio.run(values()) == [1, 2, 3, 4, 5]

    def commands_work(self) -> None:
        assert len(self.app.control.ping(timeout=2, limit=2)) == 2
        assert len(self.app.control.inspect(timeout=2, limit=2).stats()) == 2

    async def classes_work(self) -> None:
        broker = MessageBroker(self.app)
        assert await broker.connect()
        foreman = Foreman(broker)
        await foreman.start()
        try:
            subscription = await broker.subscribe_broadcast()
            assert len(await broker.broadcast_control("PING", wait_timeout=10)) == 2
            heard = await asyncio.wait_for(anext(aiter(subscription.listen())), 10)
            assert heard["command"] == "PING"
            await subscription.close()
            task_id = await broker.enqueue_task("add_numbers", {"a": 4, "b": 1})
            assert await asyncio.to_thread(self.app.AsyncResult(task_id).get, timeout=20) == 5
            status = await broker.get_task_status(task_id)
            assert status is not None
            assert status.status == "completed"
            assert (await broker.get_queue_stats())["tasks_failed"] == 0
            assert await broker.detect_zombie_tasks() == []
            assert foreman.get_cluster_status()["online_nodes"] == 2
            waits = await broker.enqueue_task("add_numbers", {"a": 4, "b": 1})
            assert await foreman.assign_task(waits)
            self.app.control.purge()
        finally:
            await foreman.stop()
            await broker.disconnect()

    def a_dead_nodes_task_runs_elsewhere(self) -> None:
        async def watched() -> Any:
            foreman = Foreman(MessageBroker(self.app))
            await foreman.start()
            try:
                return await asyncio.to_thread(
                    self.tasks.dies_with_its_node.delay().get, timeout=30
                )
            finally:
                await foreman.stop()

        assert asyncio.run(watched()) == 1

    def close(self) -> None:
        for spore in self.spores:
            spore.kill(signal.SIGTERM)
        for spore in self.spores:
            spore.stop()
        for router in self.app.conf.task_routes:
            router.close()
        self.app.backend.result_consumer.stop()
        self.app.close()
        self.client.close()
        del sys.modules["essentials_app"]


class Events(threading.Thread):
    """Receives the events that workers send, as a monitor does. A context."""

    def __init__(self, app: Any) -> None:
        super().__init__(daemon=True)
        self.app = app
        self.seen: set[str] = set()
        self._ready, self._over = threading.Event(), threading.Event()

    def run(self) -> None:
        with self.app.connection_for_read() as connection:
            receiver = self.app.events.Receiver(
                connection, handlers={"*": lambda event: self.seen.add(event["type"])}
            )
            with receiver.consumer_context() as (consuming, _channel, _consumers):
                self._ready.set()
                while not self._over.is_set():
                    try:
                        consuming.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue

    def __enter__(self) -> Events:
        self.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(60)
