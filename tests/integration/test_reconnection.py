"""What a node holds, when connections are lost or frozen and answers come late: nothing runs twice, nothing stays reserved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from queue import Empty

import pytest

from hive.broker import incarnation as incarnations
from hive.broker.nodes import NodeTable
from hive.foreman.zombies import ZombieFinder
from tests.harness import BrokerServer, wait_until
from tests.integration.test_channel import NODE, Spore, reserve_unread
from tests.nodes import BACKGROUND, make_facts, make_load


@pytest.fixture
def spore(broker: BrokerServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spore]:
    monkeypatch.setattr(incarnations, "_current", None)
    spore = Spore(broker)
    yield spore
    spore.close()


def test_what_was_reserved_by_who_is_declared_dead_before_the_answer_is_read_does_not_run_here(spore: Spore) -> None:
    connection = spore.consume()
    reserve_unread(spore, connection, "p")
    dead = spore.incarnation.id
    spore.steps.restore(dead)
    spore.incarnation.fence(dead)  # as the heartbeat does, from its thread
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
        assert finder.find() == []


def test_a_slow_answer_to_an_attach_does_not_hold_up_the_heartbeats(spore: Spore, broker: BrokerServer) -> None:
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
