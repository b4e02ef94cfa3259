"""Hive's kombu channel in this process, as a worker's consumer uses it, on a real broker."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
from kombu import Connection, Exchange, Message, Queue

from hive.broker.channel import incarnation as incarnations
from hive.broker.channel import steps
from hive.broker.channel.incarnation import Incarnation
from hive.broker.link.client import BrokerClient
from hive.broker.link.priorities import INDEXES
from hive.broker.link.scripts import Script
from tests.harness import BrokerServer, wait_until
from tests.integration.channel_steps import Steps, plain_message
from tests.nodes import BACKGROUND, HIGH, make_settings

NODE = "a@h"


class Spore:
    """A node of some slots in this process: what its consumer was handed, in order."""

    def __init__(self, server: BrokerServer, prefix: str = "", slots: int = 2) -> None:
        self.server = server
        self.prefix = prefix
        self.client = BrokerClient(server.url, make_settings(), prefix=prefix)
        self.steps = Steps(self.client)
        self.incarnation: Incarnation = incarnations.begin(self.client, NODE, slots)
        self.messages: list[Message] = []
        self.on_message: Callable[[Message], Any] = self.messages.append
        self.connections: list[Connection] = []

    def connect(self, url: str = "", **options: Any) -> Connection:
        """A connection; url: where it leads, when not straight to the server."""
        options = {"priority_steps": list(INDEXES), "global_keyprefix": self.prefix, **options}
        connection = Connection(
            url or self.server.url,
            transport="hive.broker.channel.transport:Transport",
            transport_options=options,
        )
        self.connections.append(connection)
        return connection

    def consume(self, *queues: str, connection: Connection | None = None) -> Connection:
        """Begin to consume, on a new connection unless there is one."""
        connection = connection or self.connect()
        named = [
            Queue(name, Exchange(name, type="direct"), routing_key=name)
            for name in queues or (HIGH, BACKGROUND)
        ]
        connection.Consumer(named, on_message=self._receive).consume()
        return connection

    def _receive(self, message: Message) -> None:
        self.on_message(message)

    def drain(self, connection: Connection, until: Callable[[], Any]) -> None:
        """Run the connection's event loop until something is true."""

        def step() -> Any:
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.05)
            return until()

        wait_until(step)

    def receive(self, connection: Connection, count: int) -> list[str]:
        """The ids of the next messages."""
        start = len(self.messages)
        self.drain(connection, lambda: len(self.messages) >= start + count)
        return [str(message.delivery_tag) for message in self.messages[start:]]

    def reserved(self) -> set[str]:
        return set(self.steps.hash("reserved", NODE))

    def close(self) -> None:
        for connection in self.connections:
            connection.release()
        self.client.close()
        incarnations.end()


@pytest.fixture
def spore(broker: BrokerServer) -> Iterator[Spore]:
    spore = Spore(broker)
    yield spore
    spore.close()


def test_messages_come_in_the_order_in_which_hive_serves(spore: Spore) -> None:
    spore.incarnation.slots = 20
    spore.incarnation.requirement_queues = ("venom:req:d1", "venom:req:d2")
    connection = spore.consume(BACKGROUND, "video", HIGH)
    homes = [f"venom:pin:{NODE}", "venom:req:d1", "venom:req:d2", HIGH, "video", BACKGROUND]
    for home in reversed(homes):
        for priority in (0, 10):
            spore.steps.publish(f"{home} {priority}", home=home, priority=priority)
    assert spore.receive(connection, 12) == [
        f"{home} {priority}" for home in homes for priority in (10, 0)
    ]


def test_an_applications_own_queues_take_turns(spore: Spore) -> None:
    spore.incarnation.slots = 1
    connection = spore.consume("video", "audio", "mail")
    for queue in ("video", "audio", "mail"):
        for nth in range(3):
            spore.steps.publish(f"{queue} {nth}", home=queue)
    served = []
    for _ in range(9):
        served += spore.receive(connection, 1)
        spore.messages[-1].ack()
    assert all(
        {name.split()[0] for name in served[at : at + 3]} == {"video", "audio", "mail"}
        for at in (0, 3, 6)
    ), served


def test_a_delivery_says_who_holds_it(spore: Spore) -> None:
    connection = spore.consume()
    spore.steps.publish("p", task_id="t")
    assert spore.receive(connection, 1) == ["p"]
    message = spore.messages[0]
    hive = message.headers["hive"]
    assert (hive["id"], hive["node"], hive["inc"], hive["deaths"]) == (
        "p",
        NODE,
        spore.incarnation.id,
        0,
    )
    assert hive["at"] == spore.incarnation.confirmed_beat > 0
    assert message.delivery_info["redelivered"] is False
    message.reject(requeue=True)
    assert spore.receive(connection, 1) == ["p"]
    assert spore.messages[1].headers["hive"]["deaths"] == 1
    assert spore.messages[1].delivery_info["redelivered"] is True


def test_no_more_is_taken_than_there_are_slots_and_an_acknowledgement_frees_one(
    spore: Spore,
) -> None:
    connection = spore.consume()
    for n in range(3):
        spore.steps.publish(f"p{n}")
    assert spore.receive(connection, 2) == ["p0", "p1"]
    for _ in range(3):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.02)
    spore.messages[0].ack()
    assert spore.reserved() == {"p0", "p1"}, "the next reserve carries it"
    assert spore.receive(connection, 1) == ["p2"]
    assert spore.reserved() == {"p1", "p2"}
    assert not spore.incarnation.has_unconfirmed


def test_an_acknowledgement_is_sent_at_once_while_the_connection_waits(spore: Spore) -> None:
    connection = spore.consume()
    spore.steps.publish("p")
    spore.receive(connection, 1)
    spore.drain(connection, lambda: spore.incarnation.polling)
    spore.messages[0].ack()
    assert spore.reserved() == set()


def test_an_acknowledgement_that_comes_between_asking_and_waiting_is_sent_before_the_wait(
    spore: Spore,
) -> None:
    connection = spore.consume()
    spore.steps.publish("p")
    spore.receive(connection, 1)
    connection.default_channel._send_reserve(spore.incarnation)
    spore.messages[0].ack()
    assert spore.incarnation.has_unconfirmed
    spore.drain(connection, lambda: spore.incarnation.polling)
    assert spore.reserved() == set()


def test_a_draining_spore_takes_nothing_until_it_resumes(spore: Spore) -> None:
    connection = spore.consume()
    spore.incarnation.draining = True
    spore.steps.publish("p")
    spore.drain(connection, lambda: spore.incarnation.polling)
    assert (spore.reserved(), spore.steps.waiting(BACKGROUND)) == (set(), ["p"])
    spore.incarnation.draining = False
    assert spore.receive(connection, 1) == ["p"]


def test_what_a_draining_spore_had_asked_for_goes_back_uncounted(spore: Spore) -> None:
    spore.incarnation.slots = 4
    connection = spore.consume()
    spore.steps.publish("runs")
    spore.receive(connection, 1)
    for n in range(3):
        spore.steps.publish(f"p{n}")
    connection.default_channel._send_reserve(spore.incarnation)
    wait_until(lambda: len(spore.reserved()) == 4)
    spore.incarnation.draining = True
    spore.drain(connection, lambda: spore.reserved() == {"runs"})
    assert len(spore.messages) == 1
    assert spore.steps.waiting(BACKGROUND) == ["p0", "p1", "p2"]
    assert spore.steps.entry("p0").deaths == 0
    spore.drain(connection, lambda: spore.incarnation.polling)


def test_a_draining_spore_that_lost_its_connection_or_was_declared_dead_attaches_again(
    spore: Spore,
) -> None:
    connection = spore.consume()
    spore.incarnation.draining = True
    spore.drain(connection, lambda: spore.incarnation.polling)
    connection.release()
    spore.steps.restore(spore.incarnation.id)
    again = spore.consume()
    spore.drain(again, lambda: spore.incarnation.polling)
    assert spore.steps.hash("epochs").keys() == {spore.incarnation.id}
    assert (spore.incarnation.attached, spore.incarnation.draining) == (True, True)


def test_rejecting_for_good_ends_the_message(spore: Spore) -> None:
    connection = spore.consume()
    spore.steps.publish("p")
    spore.receive(connection, 1)
    spore.messages[0].reject(requeue=False)
    spore.incarnation.flush()
    assert spore.steps.counters() == {"accepted": 1, "failed": 1, "done": 1}


def test_what_is_held_outlives_its_connection(spore: Spore) -> None:
    first = spore.consume()
    spore.steps.publish("p")
    assert spore.receive(first, 1) == ["p"]
    first.release()
    second = spore.consume()
    spore.steps.publish("q")
    assert spore.receive(second, 1) == ["q"]
    assert spore.reserved() == {"p", "q"}
    spore.messages[0].ack()
    spore.incarnation.flush()
    assert spore.reserved() == {"q"}


def test_what_a_lost_reply_reserved_comes_again(spore: Spore) -> None:
    """The answer to a reserve that a dying connection had sent is never read."""
    first = spore.consume()
    reserve_unread(spore, first, "p")
    first.release()
    assert spore.receive(spore.consume(), 1) == ["p"]
    assert spore.messages[0].headers["hive"]["deaths"] == 0


def test_stopping_gives_back_what_the_last_reserve_took_and_keeps_what_runs(spore: Spore) -> None:
    connection = spore.consume()
    spore.steps.publish("runs")
    spore.receive(connection, 1)
    reserve_unread(spore, connection, "p")
    spore.incarnation.stop()
    assert spore.reserved() == {"runs"}
    assert spore.steps.waiting(BACKGROUND) == ["p"]
    assert spore.steps.entry("p").deaths == 0
    spore.messages[0].ack()
    assert spore.reserved() == set()


def reserve_unread(spore: Spore, connection: Connection, publish_id: str) -> None:
    """Let the connection reserve a message without reading the answer."""
    spore.drain(connection, lambda: spore.incarnation.polling)
    spore.steps.publish(publish_id)
    channel = connection.default_channel
    channel._forget_exchange(spore.incarnation)
    channel.client.connection.disconnect()
    channel._send_reserve(spore.incarnation)
    wait_until(lambda: publish_id in spore.reserved())


def test_a_lost_connection_is_an_error_that_celery_mends(spore: Spore) -> None:
    connection = spore.consume()
    spore.drain(connection, lambda: spore.incarnation.polling)
    for client in spore.client.redis.client_list():
        if client["cmd"] == "blpop":
            spore.client.redis.client_kill_filter(_id=client["id"])
    with pytest.raises(connection.connection_errors):
        spore.drain(connection, lambda: False)
    spore.steps.publish("p")
    assert spore.receive(spore.consume(), 1) == ["p"]


def test_a_broker_that_forgot_the_scripts_is_told_them_again(spore: Spore) -> None:
    connection = spore.consume()
    spore.drain(connection, lambda: spore.incarnation.polling)
    spore.client.redis.script_flush()
    spore.steps.publish("p")
    assert spore.receive(connection, 1) == ["p"]


def test_slots_stay_taken_by_what_still_runs_after_it_was_taken_away(
    spore: Spore,
) -> None:
    connection = spore.consume()
    for n in range(4):
        spore.steps.publish(f"p{n}")
    assert spore.receive(connection, 2) == ["p0", "p1"]
    spore.messages[0].ack()
    spore.steps.restore(spore.incarnation.id)
    assert spore.receive(connection, 1) in (["p0"], ["p1"]), (
        "one slot: the other still runs what was taken away"
    )
    assert spore.messages[2].headers["hive"]["inc"] == spore.incarnation.id
    assert spore.messages[2].headers["hive"]["deaths"] == 1
    assert len(spore.reserved()) == 1


def test_who_was_only_silent_goes_on_with_what_it_had(spore: Spore) -> None:
    """What had ended is acknowledged, what runs stays its own, and none of it has died."""
    connection = spore.consume()
    for n in range(2):
        spore.steps.publish(f"p{n}")
    assert spore.receive(connection, 2) == ["p0", "p1"]
    spore.messages[0].ack()
    spore.steps.fall_silent(spore.incarnation.id)
    assert spore.steps.hash("reserved", NODE) == {}
    spore.incarnation.come_back()  # as the heartbeat does
    spore.drain(connection, lambda: not spore.incarnation.has_unconfirmed)
    assert spore.reserved() == {"p1"}
    assert spore.steps.counters() == {"accepted": 2, "completed": 1, "done": 1}
    spore.messages[1].ack()
    spore.drain(connection, lambda: not spore.incarnation.has_unconfirmed)
    assert spore.steps.counters() == {"accepted": 2, "completed": 2, "done": 2}


def test_what_is_given_back_while_its_node_comes_back_is_held_by_nobody(spore: Spore) -> None:
    """The call was there before the attach, when the message was not its node's."""
    connection = spore.consume()
    spore.steps.publish("p")
    assert spore.receive(connection, 1) == ["p"]
    spore.steps.fall_silent(spore.incarnation.id)
    run, incarnation = spore.client.run, spore.incarnation

    def slow(script: Script, *args: Any) -> Any:
        if script is steps.ATTACH:
            incarnation.give_back(["p"], deaths=0, reason="its node drains")
        return run(script, *args)

    with patch.object(spore.client, "run", slow):
        incarnation.come_back()
    incarnation.flush()
    assert spore.steps.hash("reserved", NODE) == {}
    assert (spore.steps.waiting(BACKGROUND), spore.steps.entry("p").deaths) == (["p"], 0)


def test_what_a_process_that_died_meanwhile_ran_is_given_back_when_its_node_is_back(
    spore: Spore,
) -> None:
    connection = spore.consume()
    spore.steps.publish("p")
    assert spore.receive(connection, 1) == ["p"]
    spore.steps.fall_silent(spore.incarnation.id)
    spore.incarnation.come_back()
    spore.messages[0].reject(requeue=True)
    assert spore.steps.hash("reserved", NODE) == {}
    assert (spore.steps.waiting(BACKGROUND), spore.steps.entry("p").deaths) == (["p"], 1)


@pytest.mark.parametrize(
    ("error", "deaths"),
    [
        (ConnectionError("the broker is away"), 0),
        (KeyboardInterrupt(), 0),
        (KeyError("its own"), 1),
    ],
)
def test_what_cannot_be_delivered_goes_back_and_takes_nothing_with_it(
    spore: Spore, error: BaseException, deaths: int
) -> None:
    spore.incarnation.slots = 4
    connection = spore.consume()
    for n in range(4):
        spore.steps.publish(f"p{n}")

    def refuse_the_second(message: Message) -> None:
        spore.messages.append(message)
        if len(spore.messages) == 2:
            raise error

    spore.on_message = refuse_the_second
    with pytest.raises(type(error)):
        spore.drain(connection, lambda: False)
    assert spore.reserved() == {"p0"}
    assert spore.steps.waiting(BACKGROUND) == ["p1", "p2", "p3"]
    assert [spore.steps.entry(name).deaths for name in ("p1", "p2", "p3")] == [deaths, 0, 0]


@pytest.mark.parametrize("fault", [{"body_encoding": "base64"}, {"delivery_info": []}], ids=str)
def test_a_message_that_cannot_be_read_becomes_a_dead_letter(
    spore: Spore, fault: dict[str, Any]
) -> None:
    """A consumer that leaves it as it is does not end one worker after the other either."""
    spore.steps.publish("p")
    spore.client.redis.lpush(
        BACKGROUND, json.dumps({"body": "x", "properties": {"delivery_tag": "tag"} | fault})
    )
    for _ in range(1 + spore.client.settings.hive_max_retries):
        with contextlib.suppress(ValueError):
            spore.drain(spore.consume(), lambda: spore.steps.hash("dead"))
    assert "tag" in spore.steps.hash("dead")
    spore.drain(spore.consume(), lambda: spore.reserved() == {"p"})


def test_a_plain_celery_producers_message_is_delivered(spore: Spore) -> None:
    connection = spore.consume("video")
    spore.client.redis.lpush("video", plain_message("tag", id="t", task="x"))
    assert spore.receive(connection, 1) == ["tag"]
    assert spore.messages[0].headers["task"] == "x"
    spore.messages[0].ack()
    spore.incarnation.flush()
    assert spore.steps.counters()["done"] == 1


def test_reply_queues_and_consumers_without_acknowledgement_are_kombus_own(spore: Spore) -> None:
    tasks = spore.consume()
    spore.drain(tasks, lambda: spore.incarnation.polling)
    connection = spore.connect()
    reply = Queue("reply", Exchange("reply", type="direct"), routing_key="reply", expires=60.0)
    connection.Consumer([reply], on_message=spore.messages.append, no_ack=True).consume()
    connection.Producer().publish(
        {"ok": "pong"}, exchange=reply.exchange, routing_key="reply", declare=[reply]
    )
    spore.drain(connection, lambda: spore.messages)
    assert spore.messages[0].decode() == {"ok": "pong"}
    assert spore.reserved() == set()
    assert spore.steps.counters() == {}


def test_a_queues_size_and_purge_count_all_priorities(spore: Spore) -> None:
    channel = spore.connect().default_channel
    for priority in (0, 5, 10):
        spore.steps.publish(f"p{priority}", priority=priority)
    assert channel._size(BACKGROUND) == 3
    assert channel.queue_purge(BACKGROUND) == 3
    assert spore.steps.hash("entries") == {}


def publish(
    connection: Connection, publish_id: str, queue: str = BACKGROUND, **options: Any
) -> None:
    hive = {"id": publish_id, **options.pop("hive", {})}
    exchange = Exchange(queue, type="direct")
    connection.Producer().publish(
        [[], {}, {}],
        exchange=exchange,
        routing_key=queue,
        declare=[Queue(queue, exchange, routing_key=queue)],
        headers={"id": f"task {publish_id}", "hive": hive},
        **options,
    )


def test_publishing_writes_the_message_once_and_leaves_out_what_only_the_broker_needs(
    spore: Spore,
) -> None:
    connection = spore.connect()
    spore.steps.attach("b@h/1")
    publish(connection, "p", priority=9, hive_candidates=[["b@h", 1, 0.0]], hive_tasks_weight=0.3)
    publish(connection, "p", priority=9)
    publish(connection, "q", HIGH, hive={"home": "venom:req:d1", "req": {"gpu": True}}, priority=0)
    assert spore.steps.placed("b@h") == ["p"]
    assert spore.steps.waiting(f"venom:req:d1:{HIGH}") == ["q"]
    assert spore.steps.hash("requirements") == {f"d1:{HIGH}": '{"gpu": true}'}
    entry = spore.steps.entry("p")
    assert (entry.home, entry.index, entry.task_id) == (BACKGROUND, 1, "task p")
    assert not {"hive_candidates", "hive_tasks_weight"} & set(entry.message["properties"])
    assert entry.message["properties"]["delivery_tag"] == "p"


@pytest.mark.parametrize(("seconds", "delayed"), [(60, True), (-60, False), (None, False)])
def test_what_is_due_later_waits_by_the_brokers_clock(
    spore: Spore, seconds: int | None, delayed: bool
) -> None:
    now = spore.steps.now()
    publish(spore.connect(), "p", hive={"due": now / 1000 + seconds if seconds else None})
    due = spore.client.redis.zscore("venom:delayed", "p")
    assert (due is not None) == delayed
    assert due is None or abs(due - now - 60_000) < 2_000


def test_a_batch_is_published_like_single_messages(spore: Spore) -> None:
    channel = spore.connect().default_channel
    publish(spore.connections[0], "declares the queue")
    batch = channel.create_publish_batch(100)
    for n in range(3):
        message = channel.prepare_message(
            "", headers={"id": "", "hive": {"id": f"p{n}"}}, properties={"priority": 5}
        )
        batch.publish(message, exchange=BACKGROUND, routing_key=BACKGROUND)
    batch.flush()
    batch.close()
    assert spore.steps.waiting(BACKGROUND) == ["p0", "p1", "p2", "declares the queue"]


def test_a_key_prefix_separates_hives_on_one_server(broker: BrokerServer) -> None:
    spore = Spore(broker, prefix="tenant:")
    try:
        connection = spore.consume("video")
        publish(connection, "p", "video")
        spore.client.redis.lpush("tenant:video", plain_message("tag"))
        assert spore.receive(connection, 2) == ["tag", "p"], (
            "without a priority it is in the bare list, as the most urgent are"
        )
        assert all(key.startswith(b"tenant:") for key in spore.client.redis.scan_iter())
        spore.messages[0].ack()
        spore.incarnation.leave()
        assert spore.steps.waiting("video") == ["p"]
    finally:
        spore.close()
