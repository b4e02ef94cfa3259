"""What a node holds, when connections are lost or frozen and answers come late: nothing runs twice,
nothing stays reserved.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from queue import Empty

import pytest

from hive.broker.nodes.table import NodeTable
from hive.foreman.watch.look import look
from hive.foreman.watch.zombies import ZombieFinder
from tests.harness import BrokerServer, wait_until
from tests.integration.channel_steps import A1
from tests.integration.test_channel import NODE, Spore, reserve_unread
from tests.nodes import BACKGROUND, make_facts, make_load
from tests.proxy import Proxy


@pytest.fixture
def spore(broker: BrokerServer) -> Iterator[Spore]:
    spore = Spore(broker)
    yield spore
    spore.close()


def test_what_was_reserved_by_who_is_declared_dead_before_the_answer_is_read_does_not_run_here(
    spore: Spore,
) -> None:
    connection = spore.consume()
    reserve_unread(spore, connection, "p")
    spore.steps.restore(spore.incarnation.id)
    spore.incarnation.come_back()  # as the heartbeat does, from its thread
    with pytest.raises(Empty):
        connection.default_channel._brpop_read()
    assert spore.messages == []
    assert spore.steps.waiting(BACKGROUND) == ["p"]
    connection.release()
    assert spore.receive(spore.consume(), 1) == ["p"]
    assert spore.reserved() == {"p"}


def test_what_waits_to_be_acknowledged_is_no_zombie(spore: Spore) -> None:
    connection = spore.consume()
    spore.steps.publish("p", task_id="t")
    spore.receive(connection, 1)
    spore.messages[0].ack()
    assert spore.incarnation.has_unconfirmed
    table, finder = NodeTable(spore.client), ZombieFinder(spore.client)
    for _ in range(3):
        facts = make_facts(NODE, incarnation=spore.incarnation.id)
        table.beat(spore.incarnation.id, make_load(), facts, held=spore.incarnation.held_line())
        assert finder.find(look(spore.client)) == []


def beat_and_look(spore: Spore, finder: ZombieFinder) -> bool:
    """A heartbeat, and what the watchdog then makes of it: whether it finds zombies."""
    facts = make_facts(NODE, incarnation=spore.incarnation.id)
    NodeTable(spore.client).beat(
        spore.incarnation.id, make_load(), facts, held=spore.incarnation.held_line()
    )
    return bool(finder.find(look(spore.client)))


def test_what_lies_unread_in_a_busy_workers_socket_is_no_zombie(spore: Spore) -> None:
    connection = spore.consume()
    reserve_unread(spore, connection, "p")
    finder = ZombieFinder(spore.client)
    assert not any(beat_and_look(spore, finder) for _ in range(4))
    connection.default_channel._brpop_read()
    assert [message.delivery_tag for message in spore.messages] == ["p"]
    assert not any(beat_and_look(spore, finder) for _ in range(4))
    assert spore.incarnation.held_line() == "p"


def test_a_connection_that_falls_silent_is_dropped_and_gives_back_what_it_took(
    spore: Spore, broker: BrokerServer
) -> None:
    with closing(Proxy(broker.port)) as proxy:
        spore.incarnation.slots = 1
        connection = spore.connect(proxy.url, health_check_interval=0.2)
        spore.consume(connection=connection)
        spore.steps.publish("first")
        spore.receive(connection, 1)
        spore.steps.publish("second")
        proxy.silence(asks=True)
        spore.messages[0].ack()
        finder = ZombieFinder(spore.client)
        found: list[bool] = []
        spore.drain(
            connection,
            lambda: found.append(beat_and_look(spore, finder)) or len(spore.messages) > 1,
        )
        assert spore.messages[1].delivery_tag == "second"
        assert spore.messages[1].headers["hive"]["deaths"] == 0
        assert not any(found)
        assert spore.reserved() == {"second"}


def test_what_could_not_be_given_back_goes_back_later_and_once(tmp_path: Path) -> None:
    server = BrokerServer(tmp_path / "broker").start()
    spore = Spore(server)
    try:
        connection = spore.consume()
        spore.steps.publish("p")
        spore.receive(connection, 1)
        server.kill()
        spore.messages[0].reject(requeue=True)
        assert spore.incarnation.has_unconfirmed
        assert spore.incarnation.held_line() == "p"
        server.start()
        spore.incarnation.flush()
        assert (spore.steps.waiting(BACKGROUND), spore.steps.entry("p").deaths) == (["p"], 1)
        assert not spore.incarnation.has_unconfirmed
        assert spore.incarnation.held_line() == ""
    finally:
        spore.close()
        server.kill()


def test_a_late_copy_of_a_give_back_leaves_alone_what_was_reserved_again(spore: Spore) -> None:
    spore.steps.attach(A1)
    spore.steps.publish("p")
    spore.steps.take(A1, 1)
    stamp = spore.steps.hash("reserved", "a@h")["p"].partition("|")[2]
    assert spore.steps.give_back(A1, f"p\x1f{stamp}") == ["p", 1]
    wait_until(lambda: spore.steps.now() > int(stamp))
    assert spore.steps.take(A1, 1) == ["p"]
    assert spore.steps.give_back(A1, f"p\x1f{stamp}") == []
    assert spore.reserved() == {"p"}


def test_a_slow_answer_to_an_attach_does_not_hold_up_the_heartbeats(
    spore: Spore, broker: BrokerServer
) -> None:
    connection = spore.consume()
    spore.steps.publish("p")
    spore.receive(connection, 1)
    assert broker.process is not None
    broker.process.send_signal(signal.SIGSTOP)
    attaching = threading.Thread(target=spore.incarnation.attach)
    line: list[str] = []
    beating = threading.Thread(target=lambda: line.append(spore.incarnation.held_line()))
    try:
        attaching.start()
        wait_until(lambda: spore.incarnation._epoch == 2, what="the attach is under way")
        beating.start()
        beating.join(2)
        assert line == ["p"]
    finally:
        broker.process.send_signal(signal.SIGCONT)
    attaching.join(60)
    beating.join(60)
    assert spore.reserved() == {"p"}
