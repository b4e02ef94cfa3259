"""What a worker cannot read becomes a dead letter, whoever sent it, and who waits is told.

The messages of these tests come from programs that have plain Celery, or none: Hive's own refuse to
send such (test_unsendable.py).
"""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import yaml
from celery import Celery, chord
from celery.exceptions import ChordError, NotRegistered

from hive.broker.ledger.account import Ledger
from hive.broker.ledger.dead_letters import DeadLetter, DeadLetters
from hive.broker.link.client import client_of
from hive.broker.message_broker import MessageBroker
from hive.errors import DeadLetterError
from tests.harness import wait_until
from tests.integration import jobs
from tests.integration.cluster import Cluster
from tests.nodes import BACKGROUND

TASK = "tests.integration.jobs.plain"
CANVAS: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
MARKS = {"__type__": "nobodys", "__value__": 1}
DEEP = "[" * 100_000 + "]" * 100_000


def message(body: Any = None, **changes: Any) -> dict[str, Any]:
    """A task's message as kombu pushes it, with other parts. body: what is packed; bytes as it is.

    A part that is None is left out.
    """
    packed = body if isinstance(body, bytes) else json.dumps(body or [[], {}, CANVAS]).encode()
    given: dict[str, Any] = {
        "body": base64.b64encode(packed).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": TASK, "id": "", "retries": 0} | changes.pop("headers", {}),
        "properties": {"body_encoding": "base64", "priority": 0} | changes.pop("properties", {}),
    }
    return {name: part for name, part in (given | changes).items() if part is not None}


BAD: dict[str, dict[str, Any]] = {
    "pickle": message(
        pickle.dumps([[], {}, CANVAS]), **{"content-type": "application/x-python-serialize"}
    ),
    "YAML": message(yaml.dump([[], {}, {}]).encode(), **{"content-type": "application/x-yaml"}),
    "a content type of nobody": message(**{"content-type": "application/x-nobodys"}),
    "binary data": message(b"\x00\x01\x02", **{"content-type": "application/data"}),
    "a content type that is none": message(**{"content-type": 7}),
    "marks of a type of nobody": message([[MARKS], {}, CANVAS]),
    "marks that say nonsense": message(
        [[{"__type__": "datetime", "__value__": "soon"}], {}, CANVAS]
    ),
    "such marks among its stamps": message(headers={"stamps": {"who": MARKS}}),
    "no JSON": message(b"<html>"),
    "no text": message(b"\xff\xfe"),
    "JSON nested too deep": message(DEEP.encode()),
    "a compression of nobody": message(headers={"compression": "application/x-nobodys"}),
    "half of a compressed body": message(
        zlib.compress(b"[[], {}, {}]" * 9)[:20], headers={"compression": "application/x-gzip"}
    ),
    "not compressed at all": message(headers={"compression": "application/x-gzip"}),
    "no Base64": message(body="§"),
    "an encoding of nobody": message(properties={"body_encoding": "base65"}),
    "an encoding that is none": message(properties={"body_encoding": 64}),
    "no body": message(body=None, properties={"body_encoding": None}) | {"body": None},
    "an empty body": message(b""),
    "null": message(b"null"),
    "a number": message(b"7"),
    "two parts": message([[], {}]),
    "arguments that are no list": message([7, {}, CANVAS]),
    "named arguments that are no object": message([[], [1], CANVAS]),
    "a canvas that is none": message([[], {}, "chord"]),
    "an eta that is none": message(headers={"eta": "tomorrow"}),
    "an eta of another type": message(headers={"eta": 7}),
    "an end that is none": message(headers={"expires": "never"}),
    "an end of another type": message(headers={"expires": [7]}),
    "a time limit that is none": message(headers={"timelimit": ["soon", None]}),
    "time limits that are none": message(headers={"timelimit": 7}),
    "one time limit": message(headers={"timelimit": [7]}),
    "retries that are none": message(headers={"retries": "many"}),
    "a task's name that is none": message(headers={"task": ["plain"]}),
    "a task's name that is null": message() | {"headers": {"task": None}},
    "no task's name": message({"no": "task"}) | {"headers": {}},
    "a delivery that is none": message(properties={"delivery_info": [7]}),
    "headers that are a list": message(headers={}) | {"headers": [7]},
}
PROTOCOL_1: dict[str, Any] = {
    "a name that is none": {"task": 7},
    "arguments that are none": {"args": 7},
    "named arguments that are none": {"kwargs": [7]},
    "an id that is none": {"id": 7},
}
NOBODYS: dict[str, dict[str, Any]] = {
    "no id": message(headers={"id": None}),
    "an id that is none": message(headers={"id": 7}),
    "an empty id": message(),
    "an unknown task without an id": message(headers={"task": "nobodys", "id": None}),
}
"""With no id by which anybody could wait."""


class Strangers(Cluster):
    """A cluster with one spore into whose queue other programs push."""

    def __init__(self, directory: Any) -> None:
        super().__init__(directory)
        self.worker = self.spawn("a", concurrency=1)
        self.wait_online("a")
        self.letters = DeadLetters(self.app)
        self.plain = Celery("plain", broker=self.server.url, set_as_current=False)
        self.plain.conf.task_default_queue = BACKGROUND

    def push(self, name: str, given: dict[str, Any], *, task_id: str | None = None) -> None:
        """Push a message under that name as its delivery tag, as kombu does."""
        properties = {"delivery_tag": name, **given["properties"]}
        if isinstance(given["headers"], dict) and task_id is not None:
            given = {**given, "headers": {**given["headers"], "id": task_id}}
        if task_id is not None:
            properties["correlation_id"] = task_id
        client_of(self.app).redis.lpush(BACKGROUND, json.dumps({**given, "properties": properties}))

    def letter(self, name: str) -> DeadLetter:
        return wait_until(lambda: self.letters.find(name), 30, f"the dead letter of {name}")

    def failure(self, task_id: str) -> str:
        """How who waits for a task learns of it."""
        with pytest.raises(DeadLetterError) as told:
            self.app.AsyncResult(task_id).get(timeout=30)
        return told.value.message


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strangers]:
    with closing(Strangers(tmp_path_factory.mktemp("strangers"))) as cluster:
        for number, given in enumerate(BAD.values()):
            cluster.push(f"tag-{number}", given, task_id=f"id-{number}")
        for number, change in enumerate(PROTOCOL_1.values()):
            body = {"task": TASK, "id": f"one-{number}", "args": [], "kwargs": {}, **change}
            given = message(body) | {"headers": {}}
            cluster.push(f"tag-one-{number}", given, task_id=f"one-{number}")
        for number, given in enumerate(NOBODYS.values()):
            cluster.push(f"tag-nobodys-{number}", given)
        yield cluster


@pytest.mark.parametrize(
    "name",
    [f"id-{number}" for number in range(len(BAD))]
    + [f"one-{number}" for number in range(len(PROTOCOL_1))],
    ids=[*BAD, *(f"protocol 1: {name}" for name in PROTOCOL_1)],
)
def test_a_message_that_nobody_can_read_is_a_dead_letter_of_which_its_caller_is_told(
    cluster: Strangers, name: str
) -> None:
    said = cluster.failure(name)
    letter = cluster.letter(name)
    assert letter.reason.startswith("it cannot be read: ")
    assert letter.reason in said
    assert "died" not in said
    assert "\n" not in said
    assert (letter.deaths, len(letter.history)) == (1, 1), "it is not tried again and again"


@pytest.mark.parametrize("number", range(len(NOBODYS)), ids=list(NOBODYS))
def test_one_for_which_nobody_can_wait_is_a_dead_letter_too(
    cluster: Strangers, number: int
) -> None:
    assert "cannot be read" in cluster.letter(f"tag-nobodys-{number}").reason


def test_it_can_be_looked_at_sent_again_and_purged(cluster: Strangers) -> None:
    broker = MessageBroker(cluster.app)
    for number in range(len(BAD)):
        cluster.failure(f"id-{number}")
        status = asyncio.run(broker.get_task_status(f"id-{number}"))
        assert status is not None
        assert (status.status, status.completed_at is not None) == ("dead", True)
    name = f"id-{list(BAD).index('pickle')}"
    died = cluster.letter(name).died_at
    assert cluster.letters.retry(name)
    wait_until(lambda: cluster.letter(name).died_at > died, 30)
    assert "pickle" in cluster.failure(name)


def test_the_worker_goes_on_and_nothing_is_lost(cluster: Strangers) -> None:
    assert jobs.add_numbers.delay(1, 2).get(timeout=30) == 3
    assert cluster.worker.process.poll() is None
    assert "Traceback" not in cluster.worker.output()
    ledger = Ledger(client_of(cluster.app))
    bad = len(BAD) + len(PROTOCOL_1) + len(NOBODYS)
    wait_until(lambda: ledger.look().account.dead >= bad, 30)
    account = ledger.look().account
    assert (account.missing, account.stranded) == (0, 0)


def test_a_compressed_task_goes_where_it_is_sent_and_runs(cluster: Strangers) -> None:
    options: dict[str, Any] = {"requirements": {"node": "a@h"}, "affinity": "model"}
    for compression in ("gzip", "bzip2", "lzma", "application/x-gzip"):
        sent = jobs.add_numbers.apply_async((1, 2), compression=compression, **options)
        assert sent.get(timeout=30) == 3
        assert sent.args == [1, 2]


def test_a_message_of_protocol_1_runs_and_is_known_by_its_id(cluster: Strangers) -> None:
    cluster.plain.conf.task_protocol = 1
    sent = cluster.plain.send_task(jobs.add_numbers.name, (4, 5))
    assert cluster.app.AsyncResult(sent.id).get(timeout=30) == 9
    poison = cluster.plain.send_task(jobs.poison.name)
    assert "died" in cluster.failure(poison.id)
    letter = cluster.letter(poison.id)
    assert (letter.task, letter.args, letter.kwargs) == (jobs.poison.name, [], {})


def test_a_chord_learns_that_nobody_knows_its_member(cluster: Strangers) -> None:
    nobodys = cluster.app.signature("nobodys.task")
    ending = chord([jobs.add_numbers.s(1, 2), nobodys])(jobs.plain.s())
    with pytest.raises(ChordError, match="nobodys"):
        cluster.app.AsyncResult(ending.id).get(timeout=30)
    with pytest.raises(NotRegistered):
        ending.parent.results[1].get(timeout=30)
