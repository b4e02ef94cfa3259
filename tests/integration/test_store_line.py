"""STARTED is stored without waiting: it is seen at once all the same, and no trouble of its
connection costs a result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from hive.broker.results.backend import STORE
from hive.broker.results.store_line import StoreLines
from tests.harness import BrokerServer, wait_until

KEY = "celery-task-meta-1"


@pytest.fixture
def client(broker: BrokerServer) -> Iterator[redis.Redis]:
    with broker.client() as connected:
        yield connected


@pytest.fixture
def lines(broker: BrokerServer) -> Iterator[StoreLines]:
    with broker.client() as of_results:
        yield StoreLines(lambda: of_results, STORE)


def state(name: str, *delivery: str) -> tuple[Any, ...]:
    """What the script is given to store that state; delivery: node, incarnation, publish id."""
    return (1, KEY, "", json.dumps({"status": name}), 60, *(delivery or ("", "", "")))


def stored(client: redis.Redis) -> str:
    value = client.get(KEY)
    return json.loads(value)["status"] if isinstance(value, bytes) else ""


def test_started_is_seen_before_anything_else_is_stored(
    lines: StoreLines, client: redis.Redis
) -> None:
    assert lines.send(*state("STARTED"))
    wait_until(lambda: stored(client) == "STARTED", what="others see that it has started")


def test_each_store_gets_its_own_answer_however_much_was_sent_before(
    lines: StoreLines, client: redis.Redis
) -> None:
    for _ in range(3):
        assert lines.send(*state("STARTED"))
    assert lines.store(*state("SUCCESS")) == 1
    assert lines.send(*state("STARTED"))
    assert lines.store(*state("FAILURE")) == 0
    assert stored(client) == "SUCCESS"


def test_a_run_whose_message_was_taken_away_is_told_so_with_its_result(
    lines: StoreLines, client: redis.Redis
) -> None:
    client.hset("venom:entries", "f" * 24, "of another run")
    taken_away = ("node@h", "node@h/1", "f" * 24)
    assert lines.send(*state("STARTED", *taken_away))
    assert lines.store(*state("SUCCESS", *taken_away)) == -1
    assert stored(client) == ""


def test_without_anything_sent_the_ordinary_way_is_taken(lines: StoreLines) -> None:
    assert lines.store(*state("SUCCESS")) is None


def test_a_result_is_left_to_the_ordinary_way_when_the_connection_was_lost(
    lines: StoreLines, client: redis.Redis
) -> None:
    assert lines.send(*state("STARTED"))
    client.client_kill_filter(_type="normal", skipme=True)
    assert lines.store(*state("SUCCESS")) is None
    assert lines.send(*state("STARTED")), "on another connection"
    assert lines.store(*state("SUCCESS")) == 1


def test_started_is_not_sent_into_a_connection_that_the_server_has_closed(
    lines: StoreLines, client: redis.Redis
) -> None:
    assert lines.send(*state("STARTED"))
    assert lines.store(*state("STARTED")) == 1
    client.delete(KEY)
    client.client_kill_filter(_type="normal", skipme=True)
    assert lines.send(*state("STARTED"))
    wait_until(lambda: stored(client) == "STARTED", what="it was sent on another connection")


def test_a_server_that_has_forgotten_the_script_costs_no_result(
    lines: StoreLines, client: redis.Redis
) -> None:
    assert lines.send(*state("STARTED"))
    client.script_flush()
    assert lines.store(*state("SUCCESS")) is None
    assert lines.send(*state("STARTED"))
    assert lines.store(*state("SUCCESS")) == 1


def test_an_exception_that_breaks_in_leaves_no_answer_to_another_store(
    lines: StoreLines, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a soft time limit does, between sending a result and reading the answer."""
    assert lines.send(*state("STARTED"))
    read: Callable[..., Any] = redis.Connection.read_response
    with monkeypatch.context() as broken:
        broken.setattr(redis.Connection, "read_response", _break_in)
        with pytest.raises(KeyboardInterrupt):
            lines.store(*state("SUCCESS"))
    assert redis.Connection.read_response is read
    wait_until(lambda: stored(client) == "SUCCESS")
    assert lines.store(*state("FAILURE")) is None
    assert lines.send(*state("STARTED"))
    assert lines.store(*state("FAILURE")) == 0


def _break_in(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_forked_process_does_not_write_into_its_parents_connection(lines: StoreLines) -> None:
    assert lines.send(*state("STARTED"))
    child = os.fork()
    if child == 0:
        good = (
            lines.store(*state("FAILURE")) is None
            and lines.send(*state("STARTED"))
            and lines.store(*state("FAILURE")) == 1
        )
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lines.store(*state("SUCCESS")) == 1
