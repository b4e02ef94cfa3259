"""Depth: what 1,000,000 waiting tasks cost: the next to send or take, against an empty queue;
memory, against plain Celery.

Two brokers side by side, one filled, take turns. The filling repeats what one real publication
sends to the server, with other ids.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celery import Celery

import hive
from bench._verdict import verdict
from hive.broker.channel import steps
from hive.broker.link.client import client_of
from hive.settings import Settings
from tests.harness import BrokerServer
from tests.integration.channel_steps import Steps
from tests.nodes import BACKGROUND, HIGH

TASKS = 1_000_000
BATCH = 2_000
TURNS, CALLS = 200, 5
NAME, ARGUMENTS = "bench.depth.task", (7,)
NODE = "n@h/1"


class Hive:
    """One broker with Hive's channel, driven from here."""

    def __init__(self, directory: Path) -> None:
        self.server = BrokerServer(directory, durable=False).start()
        settings = Settings.load(redis_host="127.0.0.1", redis_port=self.server.port)
        self.app = hive.install(Celery(f"depth-{self.server.port}"), settings)
        self.steps = Steps(client_of(self.app))
        self.steps.attach(NODE)
        self._held: list[str] = []

    def send(self) -> None:
        self.app.send_task(NAME, ARGUMENTS)

    def take(self) -> None:
        """Acknowledge the task taken before, take another."""
        reply = self.steps.reserve(NODE, 1, *self._held, served=(HIGH, BACKGROUND))
        publish_id, task_id = reply[3], reply[8]
        self._held, self.steps.task_ids = [publish_id], {publish_id: task_id}

    def fill(self, count: int) -> None:
        task_id, arguments = self._publication()
        publish_id = arguments[1]
        client = client_of(self.app).redis
        steps.PUBLISH.load(client)
        for numbers in in_batches(count):
            with client.pipeline(transaction=False) as pipe:
                for _ in numbers:
                    ids = {publish_id: uuid.uuid4().hex[:24], task_id: str(uuid.uuid4())}
                    pipe.evalsha(
                        steps.PUBLISH.sha, 0, *(renamed(argument, ids) for argument in arguments)
                    )
                pipe.execute()

    def _publication(self) -> tuple[str, list[Any]]:
        """The task id and the script's arguments of one real publication."""
        seen: list[list[Any]] = []
        publish = steps.PUBLISH.on_connection

        def listen(connection: Any, keys: Any = (), args: Any = ()) -> Any:
            seen.append(list(args))
            return publish(connection, keys, args)

        steps.PUBLISH.on_connection = listen  # type: ignore[method-assign]
        try:
            task_id = str(self.app.send_task(NAME, ARGUMENTS).id)
        finally:
            del steps.PUBLISH.on_connection
        return task_id, seen[0]


def fill_plain(server: BrokerServer, count: int) -> None:
    """The same with plain Celery, whose queue is one list of messages."""
    app = Celery("plain", broker=server.url)
    message_id = str(app.send_task(NAME, ARGUMENTS).id)
    with server.client() as client:
        message = client.lindex("celery", 0)
        assert isinstance(message, bytes)
        for numbers in in_batches(count):
            client.lpush(
                "celery",
                *(renamed(message.decode(), {message_id: str(uuid.uuid4())}) for _ in numbers),
            )
    app.close()


def in_batches(count: int) -> Iterator[range]:
    return (range(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def renamed(text: Any, ids: dict[str, str]) -> Any:
    if isinstance(text, str):
        for old, new in ids.items():
            text = text.replace(old, new)
    return text


def used_memory(server: BrokerServer) -> int:
    with server.client() as client:
        return int(client.info("memory")["used_memory"])


def bytes_a_task(server: BrokerServer, fill: Callable[[], None]) -> float:
    before = used_memory(server)
    fill()
    return (used_memory(server) - before) / TASKS


def compare(deep: Callable[[], None], empty: Callable[[], None]) -> float:
    """Median time of a call on the full broker over that on the empty one; they take turns."""
    taken: dict[Callable[[], None], list[float]] = {deep: [], empty: []}
    for _ in range(TURNS):
        for call, times in taken.items():
            for _ in range(CALLS):
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
    full, none = (statistics.median(times) * 1000 for times in taken.values())
    print(f"  {full:.3f} ms with {TASKS} waiting, {none:.3f} ms without", flush=True)
    return full / none


def main() -> bool:
    with tempfile.TemporaryDirectory() as temporary:
        plain = BrokerServer(Path(temporary) / "plain", durable=False).start()
        try:
            theirs = bytes_a_task(plain, lambda: fill_plain(plain, TASKS))
        finally:
            plain.kill()
        deep = empty = None
        try:
            deep, empty = Hive(Path(temporary) / "deep"), Hive(Path(temporary) / "empty")
            ours = bytes_a_task(deep.server, lambda: deep.fill(TASKS))
            print(
                f"  a waiting task: {ours:.0f} bytes, plain Celery {theirs:.0f} bytes", flush=True
            )
            sending = compare(deep.send, empty.send)
            taking = compare(deep.take, empty.take)
        finally:
            for broker in (deep, empty):
                if broker is not None:
                    broker.server.kill()
    good = verdict(f"enqueue with {TASKS} waiting, against an empty queue", sending, at_most=1.2)
    good &= verdict(f"dequeue with {TASKS} waiting, against an empty queue", taking, at_most=1.2)
    return (
        verdict(
            f"broker memory of {TASKS} waiting tasks against plain Celery",
            ours / theirs,
            at_most=1.5,
        )
        and good
    )


if __name__ == "__main__":
    sys.exit(not main())
