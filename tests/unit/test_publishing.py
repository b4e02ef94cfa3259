"""What a task message carries when it reaches the channel: its publish id, its due time, its
priority.
"""

from __future__ import annotations

import time
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

from hive.broker.channel import amqp, publishing
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
        hive = outbox.send(headers={"hive": {**DELIVERED, **wishes}, "trace": "x"}).hive
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
