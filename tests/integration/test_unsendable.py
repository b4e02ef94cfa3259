"""What could not be read back is refused where it is sent, in a sentence, and leaves nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state, chain, chord, group
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu import Exchange, Queue

import hive
from hive.broker.channel import steps
from hive.broker.channel.header import Header
from hive.broker.link.client import client_of
from hive.broker.message_broker import MessageBroker
from hive.errors import HiveError, InvalidInputError
from hive.settings import Settings
from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration import jobs
from tests.integration.channel_steps import Steps
from tests.integration.cluster import Cluster
from tests.nodes import BACKGROUND

PRIORITIES = [2.5, "9", "high_priority", True, -1, 99, 10.5, float("nan"), float("inf"), b"5", [5]]
TEXTS = {
    "the separator": "a\x1fb",
    "a newline": "a\nb",
    "NUL": "a\0b",
    "kombu's separator": "a\x06\x163",
    "half a surrogate pair": "a\ud800b",
    "longer than any": "a" * 100_000,
}


def say(*words: Any) -> tuple[Any, ...]:
    return words


def say_one(x: Any) -> Any:
    return x


class Caller:
    """An application of this process on a broker without nodes."""

    def __init__(self, server: BrokerServer) -> None:
        settings = Settings.load(redis_host="127.0.0.1", redis_port=server.port)
        self.app = hive.install(Celery(f"caller-{server.port}", set_as_current=False), settings)
        self.client = client_of(self.app)
        self.echo = self.app.task(name="tests.echo")(say)

    def keys(self) -> set[bytes]:
        """All but kombu's own sets of queues, which belong to no message."""
        return {key for key in self.client.redis.keys("*") if not key.startswith(b"_kombu")}

    def refuses(self, send: Callable[[], object], what: str) -> str:
        """That it raises one sentence that names `what`, and that nothing was written."""
        with pytest.raises(InvalidInputError) as refused:
            send()
        assert what in refused.value.message
        assert "\n" not in refused.value.message
        assert len(refused.value.message) < 500
        refused.value.message.encode()
        assert self.keys() == set()
        return refused.value.message

    def close(self) -> None:
        for router in self.app.conf.task_routes:
            router.close()
        self.app.backend.result_consumer.stop()  # a group subscribes to its results
        self.client.close()


@pytest.fixture
def caller(broker: BrokerServer) -> Iterator[Caller]:
    default = _state.default_app
    with closing(Caller(broker)) as caller:
        yield caller
    _state.set_default_app(default)


def coded(caller: Caller, coding: dict[str, Any]) -> Any:
    """A task that is declared so."""
    return caller.app.task(name=f"tests.coded_{coding}", **coding)(say)


NO_NUMBERS = ["soon", "5", "", b"5", [5], {}, float("nan"), float("inf"), -1e300, 10**30]
NO_NUMBERS += [timedelta(seconds=5), date(2030, 1, 1), time(5)]
NO_MOMENTS = ["soon", "5", "", b"5", [5], {}, 5, 0, 1e9, float("nan"), True, time(5)]
NO_MOMENTS += [timedelta(seconds=5), "0001-01-01T00:00:00+23:59"]
TIMES: dict[str, tuple[str, list[Any]]] = {
    "countdown": ("countdown is a number", [*NO_NUMBERS, datetime(2030, 1, 1, tzinfo=UTC)]),
    "eta": ("eta is a datetime", NO_MOMENTS),
    "expires": ("expires is a number", NO_NUMBERS),
    "time_limit": ("time_limit is a number", [*NO_NUMBERS, -5, datetime(2030, 1, 1, tzinfo=UTC)]),
    "soft_time_limit": ("soft_time_limit is a number", [*NO_NUMBERS, -5]),
    "retries": ("retries is a whole number", ["many", 1.5, None, [1], True]),
}


@pytest.mark.parametrize("option", TIMES)
def test_a_time_that_is_none_is_refused_when_it_is_sent(caller: Caller, option: str) -> None:
    what, values = TIMES[option]
    for value in values:
        caller.refuses(partial(caller.echo.apply_async, (1,), **{option: value}), what)
        caller.refuses(partial(caller.app.send_task, "of.nobody", **{option: value}), what)
        if option != "retries":
            later = chain(caller.echo.s(1), caller.echo.s().set(**{option: value}))
            caller.refuses(later.apply_async, what)


def test_a_tasks_own_end_and_limits_are_looked_at_too(caller: Caller) -> None:
    def send(option: str) -> object:
        return coded(caller, {option: "5"}).delay()

    for option in ("expires", "time_limit", "soft_time_limit"):
        caller.refuses(partial(send, option), option)


def test_what_is_a_time_is_taken(caller: Caller) -> None:
    aware = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
    moments = [aware, aware.replace(tzinfo=None), aware.isoformat(), "2030-01-02T03:04Z"]
    channel = Steps(caller.client)
    for eta in moments:
        sent = caller.echo.apply_async((1,), eta=eta, expires=eta)
        entry = channel.entry(channel.hash("ids")[sent.id])
        assert Header.read(entry.headers).due == aware.timestamp()
        assert maybe_make_aware(maybe_iso8601(entry.headers["expires"])) == aware
    for number in (2, 2.5, Decimal("2.5"), Fraction(5, 2), True, -1, 0):
        caller.echo.apply_async((1,), countdown=number, expires=number)
    limits = {"time_limit": Decimal("2.5"), "soft_time_limit": Fraction(3, 2)}
    sent = caller.echo.apply_async((1,), **limits)
    entry = channel.entry(channel.hash("ids")[sent.id])
    assert entry.headers["timelimit"] == [2.5, 1.5]


def test_a_later_part_that_is_no_task_is_refused(caller: Caller) -> None:
    for option in ("link", "link_error"):
        for value in ("tests.echo", 5, ["tests.echo"], [{"args": [1]}], {"task": 5}):
            send = partial(caller.echo.apply_async, (1,), **{option: value})
            caller.refuses(send, "is a signature")


def test_headers_and_content_types_that_cannot_be_sent_are_refused(caller: Caller) -> None:
    for headers in ("a: b", 5, ["a"], b"a"):
        caller.refuses(partial(caller.echo.apply_async, (1,), headers=headers), "headers are")
    another = partial(caller.echo.apply_async, (1,), headers={"id": "another"})
    caller.refuses(another, "headers cannot say another id, 'another'")
    for content_type in ("application/json", "text/plain", 5):
        send = partial(caller.echo.apply_async, (1,), content_type=content_type)
        caller.refuses(send, "content_type")


CODINGS: dict[str, Callable[[Caller, dict[str, Any]], object]] = {
    "apply_async": lambda c, coding: c.echo.apply_async((1,), **coding),
    "later": lambda c, coding: c.echo.apply_async((1,), countdown=60, **coding),
    "send_task": lambda c, coding: c.app.send_task("of.nobody", **coding),
    "a signature": lambda c, coding: c.echo.s(1).set(**coding).apply_async(),
    "a group": lambda c, coding: group(c.echo.s(1), c.echo.s(2)).apply_async(**coding),
    "a chain": lambda c, coding: chain(c.echo.s(1), c.echo.s(2).set(**coding)).apply_async(),
    "a chord's body": lambda c, coding: chord([c.echo.s(1), c.echo.s(2)])(c.echo.s().set(**coding)),
    "a link": lambda c, coding: c.echo.apply_async((1,), link=c.echo.s().set(**coding)),
    "an errback": lambda c, coding: c.echo.apply_async((1,), link_error=c.echo.s().set(**coding)),
    "the task itself": lambda c, coding: coded(c, coding).delay(1),
    "the task, sent by name": lambda c, coding: c.app.send_task(coded(c, coding).name),
    "a later part's task": lambda c, coding: chain(c.echo.s(1), coded(c, coding).s()).apply_async(),
}


@pytest.mark.parametrize("way", CODINGS)
def test_a_body_that_no_node_could_read_is_refused_when_it_is_sent(
    caller: Caller, way: str
) -> None:
    for serializer in ("pickle", "yaml", "msgpack", "raw", "auth", "nobodys", 7):
        caller.refuses(partial(CODINGS[way], caller, {"serializer": serializer}), "serializer is")
    for compression in ("nobodys", 7, ["gzip"]):
        coding = {"compression": compression}
        said = caller.refuses(partial(CODINGS[way], caller, coding), "compression is")
        assert "gzip, bzip2, lzma" in said


@pytest.mark.parametrize(
    ("setting", "value"), [("task_serializer", "pickle"), ("task_compression", "nobodys")]
)
def test_the_applications_own_coding_is_looked_at_too(
    caller: Caller, setting: str, value: str
) -> None:
    caller.app.conf[setting] = value
    caller.refuses(lambda: caller.app.send_task("of.nobody"), setting.removeprefix("task_"))


WAYS: dict[str, Callable[[Caller, Any], object]] = {
    "apply_async": lambda c, p: c.echo.apply_async((1,), priority=p),
    "later": lambda c, p: c.echo.apply_async((1,), priority=p, countdown=60),
    "send_task": lambda c, p: c.app.send_task("of.nobody", priority=p),
    "a signature": lambda c, p: c.echo.s(1).set(priority=p).apply_async(),
    "a group": lambda c, p: group(c.echo.s(1), c.echo.s(2)).apply_async(priority=p),
    "a member": lambda c, p: group(c.echo.s(1).set(priority=p), c.echo.s(2)).apply_async(),
    "a chain": lambda c, p: chain(c.echo.s(1), c.echo.s(2)).apply_async(priority=p),
    "its last part": lambda c, p: chain(
        c.echo.s(1), c.echo.s(2), c.echo.s(3).set(priority=p)
    ).apply_async(),
    "a chord's body": lambda c, p: chord([c.echo.s(1), c.echo.s(2)])(c.echo.s().set(priority=p)),
    "the body of a chord of one": lambda c, p: chord([c.echo.s(1)])(c.echo.s().set(priority=p)),
    "a chord in a chain": lambda c, p: chain(
        c.echo.s(0), chord([c.echo.s(1), c.echo.s(2).set(priority=p)], c.echo.s())
    ).apply_async(),
    "a link": lambda c, p: c.echo.apply_async((1,), link=c.echo.s().set(priority=p)),
    "a link's link": lambda c, p: c.echo.apply_async(
        (1,), link=c.echo.s().set(link=[c.echo.s().set(priority=p)])
    ),
    "an errback": lambda c, p: c.echo.apply_async((1,), link_error=c.echo.s().set(priority=p)),
}


@pytest.mark.parametrize(
    ("way", "priority"),
    [(way, p) for way in WAYS for p in (PRIORITIES if way == "apply_async" else (2.5, "9", True))],
    ids=repr,
)
def test_a_priority_that_is_none_is_refused_however_it_is_sent(
    caller: Caller, way: str, priority: Any
) -> None:
    said = caller.refuses(lambda: WAYS[way](caller, priority), "priority is a whole number")
    assert "from 0 to 10" in said


@pytest.mark.parametrize("priority", [p for p in PRIORITIES if p != "high_priority"], ids=repr)
def test_hive_map_and_enqueue_task_refuse_the_same(caller: Caller, priority: Any) -> None:
    skill = hive.skill("Say it again", name="unsendable_echo")(say_one)
    broker = MessageBroker(caller.app)
    caller.refuses(lambda: hive.map(skill, [1], priority=priority, app=caller.app), "priority is")
    caller.refuses(
        lambda: asyncio.run(broker.enqueue_task("unsendable_echo", {"x": 1}, priority)),
        "priority is",
    )


def test_a_tasks_own_priority_and_that_of_its_route_are_looked_at_too(
    caller: Caller, broker: BrokerServer
) -> None:
    caller.echo.priority = 2.5  # as in the decorator, which warns of it
    caller.refuses(lambda: caller.echo.delay(1), "priority is")
    routed = Celery(f"routed-{broker.port}", set_as_current=False)
    routed.conf.task_routes = {"tests.routed": {"priority": "9"}}
    hive.install(routed, caller.client.settings)
    with closing(client_of(routed)):
        caller.refuses(lambda: routed.send_task("tests.routed"), "priority is")
        for router in routed.conf.task_routes:
            router.close()


@pytest.mark.parametrize(
    ("priority", "index"), [(5.0, 5), (0.0, 10), (10, 0), (None, 5), (Fraction(3), 7)]
)
def test_what_equals_a_whole_number_is_one(caller: Caller, priority: Any, index: int) -> None:
    sent = caller.echo.apply_async((1,), priority=priority)
    channel = Steps(caller.client)
    publish_id = channel.hash("ids")[sent.id]
    assert channel.entry(publish_id).index == index
    told = channel.entry(publish_id).message["properties"]["priority"]
    assert (told, type(told)) == (10 - index, int)


NAMED: dict[str, tuple[str, Callable[[Caller, str], object]]] = {
    "a task's id": ("task_id", lambda c, text: c.echo.apply_async((1,), task_id=text)),
    "one sent by name": ("task_id", lambda c, text: c.app.send_task("of.nobody", task_id=text)),
    "a signature's id": ("task_id", lambda c, text: c.echo.s(1).set(task_id=text).apply_async()),
    "the id of a later part": (
        "task_id",
        lambda c, text: c.echo.apply_async((1,), link=c.echo.s().set(task_id=text)),
    ),
    "a group's id": (
        "task_id",
        lambda c, text: group(c.echo.s(1), c.echo.s(2)).apply_async(task_id=text),
    ),
    "a queue": ("queue", lambda c, text: c.echo.apply_async((1,), queue=text)),
    "a queue of kombu's": ("queue", lambda c, text: c.echo.apply_async((1,), queue=Queue(text))),
    "a queue of a later part": (
        "queue",
        lambda c, text: c.echo.apply_async((1,), link=c.echo.s().set(queue=text)),
    ),
    "a routing key": (
        "routing key",
        lambda c, text: c.echo.apply_async(
            (1,), exchange=Exchange("shop", "topic"), routing_key=text
        ),
    ),
    "an exchange": (
        "exchange",
        lambda c, text: c.echo.apply_async((1,), exchange=text, routing_key="x"),
    ),
    "a publish id": (
        "publish id",
        lambda c, text: c.echo.apply_async((1,), headers={"hive": {"id": text, "keep": True}}),
    ),
    "a node": (
        "requirements",
        lambda c, text: c.echo.apply_async((1,), requirements={"node": text}),
    ),
    "an id of enqueue_task": (
        "task_id",
        lambda c, text: asyncio.run(
            MessageBroker(c.app).enqueue_task("unsendable_same", {"x": 1}, task_id=text)
        ),
    ),
}


@pytest.mark.parametrize("way", NAMED)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_name_that_could_not_be_part_of_a_key_is_refused(
    caller: Caller, way: str, text: str
) -> None:
    hive.skill("Say the same again", name="unsendable_same")(say_one)
    what, send = NAMED[way]
    caller.refuses(lambda: send(caller, text), what)


UUIDS: dict[str, Callable[[Caller, uuid.UUID], Any]] = {
    "apply_async": lambda c, u: c.echo.apply_async((1,), task_id=u).id,
    "send_task": lambda c, u: c.app.send_task("of.nobody", (), {}, None, None, u).id,
    "a signature": lambda c, u: c.echo.s(1).set(task_id=u).apply_async().id,
    "a chain's first part": lambda c, u: (
        chain(c.echo.s(1).set(task_id=u), c.echo.s()).apply_async().parent.id
    ),
    "its root": lambda c, u: c.echo.apply_async((1,), task_id=str(u), root_id=u, parent_id=u).id,
    "enqueue_task": lambda c, u: asyncio.run(
        MessageBroker(c.app).enqueue_task("unsendable_same", {"x": 1}, task_id=u)
    ),
}


@pytest.mark.parametrize("way", UUIDS)
def test_a_uuid_is_taken_for_its_text(caller: Caller, way: str) -> None:
    hive.skill("Say the same again", name="unsendable_same")(say_one)
    task_id = uuid.uuid4()
    assert UUIDS[way](caller, task_id) == str(task_id)
    channel = Steps(caller.client)
    entry = channel.entry(channel.hash("ids")[str(task_id)])
    assert (entry.task_id, entry.headers["id"]) == (str(task_id), str(task_id))
    assert entry.headers["root_id"] == str(task_id)
    status = asyncio.run(MessageBroker(caller.app).get_task_status(task_id))
    assert status is not None
    assert status.task_id == str(task_id)
    assert caller.app.AsyncResult(task_id).id == str(task_id)


def test_so_is_that_of_a_group_and_of_a_later_part(caller: Caller) -> None:
    one, two, three, four = (uuid.uuid4() for _ in range(4))
    group(caller.echo.s(1), caller.echo.s(2)).apply_async(task_id=one)
    parts = chain(caller.echo.s(1), caller.echo.s().set(task_id=two)).apply_async()
    linked = caller.echo.apply_async((1,), link=caller.echo.s().set(task_id=three))
    members = [caller.echo.s(1), caller.echo.s(2)]
    body = chord(members, caller.echo.s()).apply_async(task_id=four)
    channel = Steps(caller.client)
    entries = [channel.entry(name) for name in channel.hash("entries")]
    assert str(one) in {entry.headers["group"] for entry in entries}
    assert (parts.id, body.id) == (str(two), str(four))
    embedded = {entry.task_id: entry.body().embed for entry in entries}
    assert embedded[parts.parent.id]["chain"][0]["options"]["task_id"] == str(two)
    assert embedded[linked.id]["callbacks"][0]["options"]["task_id"] == str(three)
    assert str(four) in {
        embed["chord"]["options"]["task_id"] for embed in embedded.values() if embed.get("chord")
    }


@pytest.mark.parametrize("task_id", [4217, 1.5, b"id", ["a"]], ids=repr)
def test_an_id_that_is_no_text_is_refused(caller: Caller, task_id: Any) -> None:
    caller.refuses(lambda: caller.echo.apply_async((1,), task_id=task_id), "task_id")
    caller.refuses(
        lambda: caller.echo.apply_async((1,), link=caller.echo.s().set(task_id=task_id)), "task_id"
    )


@pytest.mark.parametrize("task_id", [4217, b"id", None, ["a"]], ids=repr)
def test_nobody_can_ask_for_an_id_that_is_no_text(caller: Caller, task_id: Any) -> None:
    broker = MessageBroker(caller.app)
    asked: list[Callable[[], Any]] = [
        lambda: asyncio.run(broker.get_task_status(task_id)),
        lambda: asyncio.run(broker.retry_task(task_id)),
        lambda: asyncio.run(broker.update_task_status(task_id, "failed")),
        lambda: asyncio.run(hive.Foreman(broker).assign_task(task_id)),
        lambda: caller.app.control.revoke([task_id]),
    ]
    for ask in asked:
        caller.refuses(ask, "task_id is a text or a UUID")


@pytest.mark.parametrize("publish_id", ["a b", "a:b", "?", "{a", "ä"])
def test_a_publish_id_that_a_heartbeat_could_not_list_is_refused(
    caller: Caller, publish_id: str
) -> None:
    header = {"hive": {"id": publish_id, "keep": True}}
    caller.refuses(lambda: caller.echo.apply_async((1,), headers=header), "publish id")


@pytest.mark.parametrize("length", ["many", float("nan"), -3, [1]], ids=repr)
def test_a_queues_max_length_that_is_no_number_is_refused(caller: Caller, length: Any) -> None:
    queue = Queue("short", queue_arguments={"x-max-length": length})
    caller.refuses(lambda: caller.echo.apply_async((1,), queue=queue), "max_length")


def test_an_affinity_that_cannot_be_encoded_is_refused(caller: Caller) -> None:
    caller.refuses(lambda: caller.echo.apply_async((1,), affinity="a\ud800"), "affinity")


@pytest.mark.parametrize("name", ["Auftrag Nr. 7/ä", "🐝", "a|b", "x:y", "a" * 1000])
def test_all_other_texts_are_kept_as_they_are(caller: Caller, name: str) -> None:
    root = "a\x1fb\ud800\n"
    sent = caller.echo.apply_async((1,), task_id=name, queue=name, root_id=root)
    channel = Steps(caller.client)
    entry = channel.entry(channel.hash("ids")[sent.id])
    assert (entry.task_id, entry.home, entry.headers["root_id"]) == (name, name, root)
    assert channel.waiting(name) == [entry.publish_id]


@pytest.mark.parametrize(
    "change",
    [
        {1: ""},
        {1: "a\x1fb"},
        {1: "{}"},
        {2: ""},
        {2: "a\nb"},
        {3: "7.5"},
        {3: "11"},
        {3: "-1"},
        {3: "nan"},
        {3: ""},
        {4: "a\x1fb"},
        {5: "soon"},
        {8: "many"},
    ],
    ids=str,
)
def test_the_publish_script_itself_keeps_nothing_that_it_could_not_read(
    caller: Caller, change: dict[int, Any]
) -> None:
    arguments = ["", "id", BACKGROUND, 5, "task", 0, "", 0.3, "{}", 0, ""]
    position, value = next(iter(change.items()))
    arguments[position if position < 7 else position + 1] = value
    with pytest.raises(Exception, match="UNREADABLE"):
        caller.client.run(steps.PUBLISH, (), arguments)
    assert caller.keys() == set()


@pytest.mark.parametrize("key", ["venom:tasks:background\x06\x165", "venom:entries"])
def test_a_key_in_a_messages_way_is_named_and_no_outage(caller: Caller, key: str) -> None:
    caller.client.redis.set(key, "x")
    with pytest.raises(HiveError, match="is a string, which Hive does not store there") as refused:
        caller.echo.delay(1)
    assert "venom:" in refused.value.message
    assert "REDIS_HOST" not in refused.value.message
    assert caller.keys() == {key.encode(), b"venom:aside"}
    caller.client.redis.delete(key)
    assert caller.echo.delay(1).id


def test_a_retry_that_cannot_be_sent_fails_its_run_which_says_why(tmp_path: Path) -> None:
    with closing(Cluster(tmp_path)) as cluster:
        cluster.spawn("a", concurrency=1)
        cluster.wait_online("a")
        for options in ({"priority": 2.5}, {"queue": "a\x1fb"}, {"requirements": {"speed": 1}}):
            failed = jobs.retry_with.delay(options)
            with pytest.raises(HiveError):
                failed.get(timeout=30)
            assert failed.state == "FAILURE"
        # A stranger's priority is no fault of the task that it sent.
        plain = plain_call(cluster, "jobs.retry_once", priority=255)
        wait_until(lambda: cluster.app.AsyncResult(plain).state == "SUCCESS", 30)


@pytest.mark.parametrize(
    ("name", "options"), [("a|b", ()), ("a\nb", ()), ("a", ("-Q", "x\x1fy")), ("a", ("-Q", "x\ny"))]
)
def test_a_worker_whose_names_no_row_could_hold_does_not_start_and_says_why(
    broker: BrokerServer, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    worker = WorkerProcess.celery(tmp_path, name, env=broker.environment, options=options)
    try:
        assert worker.process.wait(40) == 2
        assert "worker_cannot_start" in worker.output()
        assert "name" in worker.output().partition("worker_cannot_start")[2]
    finally:
        worker.kill()


def plain_call(cluster: Cluster, name: str, **properties: Any) -> str:
    """Sent by a program that has plain Celery."""
    plain = Celery("plain", broker=cluster.server.url, set_as_current=False)
    plain.conf.broker_transport_options = {"priority_steps": list(range(11))}
    sent = plain.send_task(name, queue=BACKGROUND, **properties)
    return str(sent.id)
