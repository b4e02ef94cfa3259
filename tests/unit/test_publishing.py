"""What a task message carries when it reaches the channel: its publish id, its due time, its
priority.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from celery._state import _task_stack
from celery.app.task import Context
from kombu import Exchange, Queue
from kombu.utils.json import dumps, loads

from hive.broker.channel import amqp, publishing
from hive.broker.channel.header import Header
from hive.broker.link.client import BrokerClient
from tests.nodes import BACKGROUND, make_settings

DELIVERED = {
    "id": "parent",
    "node": "a@h",
    "inc": "a@h/1",
    "at": 1.0,
    "deaths": 0,
    "reserved": 2.0,
    "created": 1.0,
    "due": 1.0,
}


def add(*_: int) -> None: ...


class Outbox:
    """An application as `hive.install` prepares it for publishing, and what it publishes."""

    def __init__(self) -> None:
        self.sent: list[SimpleNamespace] = []
        self.app = Celery("outbox", broker="memory://", set_as_current=False, amqp=amqp.NAME)
        client = BrokerClient("redis://nowhere", make_settings())
        self.app.hive = client  # type: ignore[attr-defined]
        self.app.conf.task_queues = [
            Queue(BACKGROUND, Exchange(BACKGROUND), routing_key=BACKGROUND)
        ]
        self.app.conf.task_default_queue = BACKGROUND
        vars(self.app)["send_task"] = publishing.telling_ids_apart(self.app.send_task)
        self.task: Task[Any, Any] = self.app.task(name="tasks.add")(add)

    def publish(self, body: Any, headers: dict[str, Any], **properties: Any) -> None:
        self.sent.append(
            SimpleNamespace(
                headers=headers, hive=headers.get("hive"), priority=properties.get("priority")
            )
        )

    def send(self, *args: Any, **options: Any) -> SimpleNamespace:
        with self.app.connection_for_write() as connection:
            producer = connection.Producer(auto_declare=False)
            producer.publish = self.publish
            self.task.apply_async(args, producer=producer, **options)
        return self.sent[-1]

    @contextmanager
    def running(self, **request: Any) -> Iterator[Context]:
        """Inside a task that a node was handed."""
        context = Context(
            {"id": "parent task", "hive": DELIVERED, "called_directly": False, **request}
        )
        _task_stack.push(self.task)
        self.task.push_request(**context.__dict__)
        try:
            yield self.task.request
        finally:
            self.task.pop_request()
            _task_stack.pop()


@pytest.fixture
def outbox() -> Outbox:
    publishing.connect()
    return Outbox()


def test_every_publication_has_an_id_of_its_own(outbox: Outbox) -> None:
    ids = [outbox.send(task_id="same").hive["id"] for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(len(publish_id) == 24 for publish_id in ids)


def children(outbox: Outbox) -> list[str]:
    """The ids of what a run publishes."""
    sent = [
        outbox.send(1, task_id="a"),
        outbox.send(2, task_id="a"),
        outbox.send(1, task_id="b"),
        outbox.send(1, task_id="parent task", retries=1),
        outbox.send(1, task_id="parent task", retries=2),
    ]
    return [one.hive["id"] for one in sent]


def test_a_run_that_is_repeated_publishes_its_children_under_the_same_ids(outbox: Outbox) -> None:
    with outbox.running():
        first = children(outbox)
    with outbox.running():
        assert children(outbox) == first
    assert len(set(first)) == len(first), "each publication of a run has an id of its own"


def test_what_a_repeated_run_sends_under_another_id_belongs_to_no_run(outbox: Outbox) -> None:
    with outbox.running() as request:
        for options in ({}, {"countdown": 3}, {"link": outbox.task.s()}):
            sent = outbox.send(1, **options)
            assert (sent.hive.keys() & {"of"}, len(sent.hive["id"])) == (set(), 24)
        noted = [name for name in request.__dict__ if name.startswith("_hive")]
        assert noted == [], "nothing is remembered of it"
        random_id = sent.headers["id"]
        assert "of" in outbox.send(1, task_id="a").hive
        assert "of" in outbox.send(1, task_id=str(uuid.uuid4())).hive, "one of the task's choice"
        assert "of" not in outbox.send(1, task_id=random_id, reply_to="this thread").hive
        with publishing.unrepeated():
            assert "of" not in outbox.send(1, task_id="a").hive


@pytest.mark.parametrize(
    "brings",
    [
        lambda sig: {"chain": [{"options": {}}, sig]},
        lambda sig: {"callbacks": [sig]},
        lambda sig: {"errbacks": [{"options": {"link_error": [sig]}}]},
        lambda sig: {"chord": {"kwargs": {"header": {"kwargs": {"tasks": [sig]}}, "body": {}}}},
        lambda sig: {"args": ([{"later": sig}],)},
        lambda sig: {"kwargs": {"sig": sig}},
    ],
)
def test_an_id_that_came_with_the_message_is_sent_again_by_a_repeated_run(
    outbox: Outbox, brings: Callable[[Any], dict[str, Any]]
) -> None:
    """A canvas has random ids, too, but they were made before."""
    frozen = outbox.task.s(1)
    frozen.freeze()
    with outbox.running(**brings(loads(dumps(frozen)))):
        known = outbox.send(1, **frozen.options)
        assert known.hive["of"] == "parent"
        assert outbox.send(1, **{**frozen.options, "task_id": str(uuid.uuid4())}).hive.keys() == {
            "id",
            "created",
        }
        assert publishing.chord_group("random", frozen.id) != "random"
        assert publishing.chord_group("other", str(uuid.uuid4())) == "other"


@pytest.mark.parametrize("options", [{}, {"task_id": "a"}, {"headers": Header.under_id("mine")}])
def test_another_try_to_publish_is_for_the_same_run(
    outbox: Outbox, options: dict[str, Any]
) -> None:
    """As it is tried again and again through an outage."""
    with outbox.running():
        first = outbox.send(1, **options).hive
        again = outbox.send(1, task_id="a", headers={"hive": Header(first).again()}).hive
    assert {**again, "created": 0} == {**first, "created": 0}
    assert ("of" in first) == bool(options)


@pytest.mark.parametrize(
    "other", [{"hive": {**DELIVERED, "id": "other"}}, {"called_directly": True}, {"hive": None}]
)
def test_another_run_publishes_under_other_ids(outbox: Outbox, other: dict[str, Any]) -> None:
    with outbox.running():
        first = children(outbox)
    with outbox.running(**other):
        assert not set(children(outbox)) & set(first)


def test_an_inherited_header_keeps_wishes_and_nothing_of_its_delivery(outbox: Outbox) -> None:
    """As `retry` sends the headers of its own delivery."""
    wishes = {"home": "venom:req:d1", "req": {"gpu": True}, "aff": "model-7"}
    with outbox.running():
        headers = {"hive": {**DELIVERED, **wishes}, "trace": "x"}
        hive = outbox.send(task_id="parent task", headers=headers).hive
    assert {name: hive[name] for name in wishes} == wishes
    assert hive.keys() - wishes.keys() == {"id", "of", "created"}
    assert (hive["id"] != "parent", hive["of"]) == (True, "parent")
    assert abs(hive["created"] - time.time()) < 10
    assert outbox.sent[-1].headers["trace"] == "x"


def test_an_id_that_the_sender_chose_is_kept(outbox: Outbox) -> None:
    assert outbox.send(headers={"hive": {"id": "mine", "keep": True}}).hive["id"] == "mine"
    assert outbox.send(headers={"hive": {"id": "mine"}}).hive["id"] != "mine"


@pytest.mark.parametrize(
    ("given", "priority"),
    [({}, 5), ({"priority": None}, 5), ({"priority": 0}, 0), ({"priority": 10}, 10)],
)
def test_an_unset_priority_is_5(outbox: Outbox, given: dict[str, Any], priority: int) -> None:
    assert outbox.send(**given).priority == priority


def test_a_countdown_becomes_a_due_time_and_no_eta(outbox: Outbox) -> None:
    sent = outbox.send(countdown=60)
    assert sent.headers["eta"] is None
    assert abs(sent.hive["due"] - time.time() - 60) < 10


BERLIN = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    "eta",
    [
        datetime(2030, 1, 1, 10, tzinfo=UTC),
        datetime(2030, 1, 1, 12, tzinfo=BERLIN),
        datetime(2030, 1, 1, 10),  # noqa: DTZ001 - Celery reads a naive one as UTC
        "2030-01-01T10:00:00+00:00",
        "2030-01-01T10:00:00Z",
        "2030-01-01T10:00:00",
    ],
)
@pytest.mark.parametrize(
    "conf",
    [{}, {"timezone": "America/New_York"}, {"timezone": "America/New_York", "enable_utc": False}],
)
def test_an_eta_means_what_it_means_to_celery(
    outbox: Outbox, eta: Any, conf: dict[str, Any]
) -> None:
    outbox.app.conf.update(conf)
    sent = outbox.send(eta=eta)
    assert sent.headers["eta"] is None
    assert sent.hive["due"] == datetime(2030, 1, 1, 10, tzinfo=UTC).timestamp()


def test_without_an_eta_there_is_no_due_time(outbox: Outbox) -> None:
    assert "due" not in outbox.send().hive
    assert "due" not in outbox.send(headers={"hive": DELIVERED}).hive


def test_expiry_is_left_to_celery(outbox: Outbox) -> None:
    assert outbox.send(expires=60).headers["expires"]


def test_messages_of_other_applications_and_of_other_kinds_are_left_alone(outbox: Outbox) -> None:
    other = Celery("other", broker="memory://", set_as_current=False)
    outbox.task = other.task(name="their.add")(add)
    sent = outbox.send(countdown=60)
    assert sent.headers["eta"]
    assert sent.hive is None
    assert sent.priority is None
    headers: dict[str, Any] = {"hive": {}}
    publishing._prepare(headers=headers, properties={})
    assert headers == {"hive": {}}


@pytest.mark.parametrize("parts", [("a", "b"), ("a", None, 1), ()])
def test_a_derived_id_depends_on_every_part(parts: tuple[Any, ...]) -> None:
    derive: Callable[..., str] = publishing.derived_id
    assert derive(*parts) == derive(*parts)
    assert derive(*parts) != derive(*parts, "more")
    assert len(derive(*parts)) == 24
