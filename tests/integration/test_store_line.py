"""STARTED is stored without waiting: it is seen at once all the same, and no trouble of its
connection costs a result.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from hive.broker.results.backend import STORE
from hive.broker.results.store_line import StoreLines
from tests.harness import BrokerServer, wait_until
from tests.integration.cluster import Cluster
from tests.integration.jobs import add_numbers

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


FORBIDDEN = ("client|reply", "client", "script|load")


def forbid(client: redis.Redis, command: str) -> None:
    """Make a user `few` who may do everything but that."""
    client.execute_command("ACL", "SETUSER", "few", "reset", "on", ">secret", "~*", "&*", "+@all")
    client.execute_command("ACL", "SETUSER", "few", f"-{command}")


@pytest.fixture(params=FORBIDDEN)
def limited(
    broker: BrokerServer, client: redis.Redis, request: pytest.FixtureRequest
) -> Iterator[StoreLines]:
    """Lines of a user whom the server forbids a command that they need."""
    forbid(client, request.param)
    try:
        with redis.Redis(port=broker.port, username="few", password="secret") as of_results:
            yield StoreLines(lambda: of_results, STORE)
    finally:
        client.acl_deluser("few")


def opened(client: redis.Redis) -> int:
    """How many connections the server has accepted since it began."""
    return int(client.info("stats")["total_connections_received"])


def in_a_child(step: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        os._exit(0 if step() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_user_without_the_rights_for_it_costs_one_connection_a_process_and_not_one_a_task(
    limited: StoreLines, client: redis.Redis
) -> None:
    before = opened(client)
    assert not any(limited.send(*state("STARTED")) for _ in range(200))
    assert limited.store(*state("SUCCESS")) is None, "the ordinary way is taken"
    assert opened(client) == before + 1
    open_now = [one for one in client.client_list() if one["user"] == "few"]
    assert open_now == [], "nor is the one left open that was refused"
    before = opened(client)
    assert in_a_child(lambda: not any(limited.send(*state("STARTED")) for _ in range(200)))
    assert opened(client) <= before + 1


def test_a_server_that_refuses_for_a_while_is_not_taken_for_one_that_forbids(
    lines: StoreLines, client: redis.Redis, broker: BrokerServer
) -> None:
    def run_long() -> None:
        with broker.client() as busy, pytest.raises(redis.exceptions.ResponseError):
            busy.eval("while true do end", 0)

    client.config_set("busy-reply-threshold", 10)
    runs = threading.Thread(target=run_long)
    runs.start()
    wait_until(lambda: refuses(client), what="the server is busy with a script")
    assert not lines.send(*state("STARTED"))
    client.script_kill()
    runs.join()
    client.config_set("busy-reply-threshold", 5000)
    assert lines.send(*state("STARTED"))
    assert lines.store(*state("SUCCESS")) == 1


def refuses(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.exceptions.ResponseError:
        return True
    return False


def test_a_spore_without_the_right_opens_no_connection_for_a_task(tmp_path: Path) -> None:
    server = BrokerServer(tmp_path / "broker").start()
    try:
        with server.client() as client:
            forbid(client, "client|reply")
            cluster = Cluster(
                tmp_path, server=server, redis_username="few", redis_password="secret"
            )
            try:
                cluster.spawn("one", concurrency=1)
                cluster.wait_online("one")
                assert add_numbers.apply_async((1, 1)).get(timeout=60) == 2
                before = opened(client)
                results = [add_numbers.apply_async((n, 1)) for n in range(200)]
                assert [result.get(timeout=60) for result in results] == list(range(1, 201))
                assert opened(client) - before < 10
            finally:
                cluster.close()
    finally:
        server.kill()
