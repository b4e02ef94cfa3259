"""The router's view of a real node table: in line once, in the background while it is used, across
forks and outages.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from hive.broker.link.client import BrokerClient
from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import NodeTable
from hive.errors import NoEligibleNodeError
from hive.foreman import snapshot
from hive.foreman.policy import LoadScore
from hive.foreman.router import Router
from hive.foreman.snapshot import Snapshot
from tests.harness import BrokerServer, free_port, wait_until
from tests.nodes import BACKGROUND, make_facts, make_load, make_settings

THREAD = "hive-node-table"


@pytest.fixture
def client(broker: BrokerServer) -> Iterator[BrokerClient]:
    client = BrokerClient(broker.url, make_settings())
    yield client
    client.close()


@pytest.fixture
def view(client: BrokerClient) -> Iterator[Snapshot]:
    view = Snapshot(client, LoadScore())
    yield view
    view.close()
    assert not refreshers()


_earlier: list[threading.Thread] = []


@pytest.fixture(autouse=True)
def _of_this_test_alone() -> None:
    """The applications of earlier tests read on for some seconds."""
    _earlier[:] = threading.enumerate()


def refreshers() -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread.name == THREAD and thread not in _earlier
    ]


def join(client: BrokerClient, node_id: str, *, gpu: bool = False, cpu: float = 0.0) -> None:
    incarnation = f"{node_id}/01"
    client.redis.hset(client.key("epochs"), incarnation, 1)
    gpus = [{"name": "H200", "memory_mb": 140_000}] if gpu else []
    NodeTable(client).beat(
        incarnation, make_load(cpu=cpu), make_facts(node_id, incarnation=incarnation, gpus=gpus), ""
    )


def offered(view: Snapshot) -> list[str]:
    return sorted(str(candidate[0]) for candidate in view.decide(BACKGROUND))


def calls(client: BrokerClient) -> int:
    """Scripts that the server has run."""
    return int(client.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_the_first_use_reads_in_line(client: BrokerClient, view: Snapshot) -> None:
    join(client, "a@h")
    assert not refreshers()
    assert offered(view) == ["a@h"]
    assert len(refreshers()) == 1


def test_news_arrive_in_the_background(client: BrokerClient, view: Snapshot) -> None:
    join(client, "a@h")
    assert offered(view) == ["a@h"]
    join(client, "b@h")
    wait_until(lambda: offered(view) == ["a@h", "b@h"])
    NodeTable(client).leave("a@h", "a@h/01")
    wait_until(lambda: offered(view) == ["b@h"])


def test_a_decision_costs_no_round_trip_of_its_own(client: BrokerClient, view: Snapshot) -> None:
    join(client, "a@h")
    offered(view)
    before, began = calls(client), time.monotonic()
    for _ in range(2_000):
        view.decide(BACKGROUND)
    assert calls(client) - before <= 1 + (time.monotonic() - began) / snapshot.REFRESH_EVERY


def test_without_use_the_refresher_ends_and_the_next_use_reads_in_line(
    client: BrokerClient, view: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "IDLE_AFTER", 0.3)
    monkeypatch.setattr(snapshot, "REFRESH_EVERY", 0.05)
    join(client, "a@h")
    offered(view)
    wait_until(lambda: not refreshers())
    join(client, "b@h")
    assert offered(view) == ["a@h", "b@h"]
    assert len(refreshers()) == 1


def test_threads_that_wake_it_together_start_one_refresher(
    client: BrokerClient, view: Snapshot
) -> None:
    join(client, "a@h")
    answers: list[list[str]] = []
    threads = [threading.Thread(target=lambda: answers.append(offered(view))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [["a@h"]] * 8
    assert len(refreshers()) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_reads_for_itself(client: BrokerClient, view: Snapshot) -> None:
    join(client, "a@h")
    offered(view)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            join(client, "b@h")
            os.write(writer, ",".join([*offered(view), str(len(refreshers()))]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "a@h,b@h,1"
    assert os.waitpid(child, 0)[1] == 0
    wait_until(lambda: offered(view) == ["a@h", "b@h"])


def test_a_node_that_came_a_moment_ago_is_not_refused(
    client: BrokerClient, view: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "REFRESH_EVERY", 60.0)
    join(client, "a@h")
    with pytest.raises(NoEligibleNodeError):
        view.decide(BACKGROUND, Requirements(gpu=True))
    join(client, "gpu@h", gpu=True)
    assert view.decide(BACKGROUND, Requirements(gpu=True))[0][0] == "gpu@h"


def test_without_a_broker_there_are_no_candidates_and_nothing_raises() -> None:
    client = BrokerClient(f"redis://127.0.0.1:{free_port()}/0", make_settings())
    view = Snapshot(client, LoadScore())
    try:
        assert view.decide(BACKGROUND) == []
        assert view.decide(BACKGROUND, Requirements(gpu=True), "model-7") == []
    finally:
        view.close()


def timed(holds: Callable[[], bool]) -> float:
    """How long it took, s."""
    began = time.monotonic()
    assert holds()
    return time.monotonic() - began


def test_a_broker_that_does_not_answer_holds_up_one_call_briefly(
    broker: BrokerServer, client: BrokerClient, view: Snapshot
) -> None:
    join(client, "a@h")
    assert broker.process is not None
    broker.process.send_signal(signal.SIGSTOP)
    try:
        assert timed(lambda: view.decide(BACKGROUND) == []) < 30
        assert (
            min(timed(lambda: view.decide(BACKGROUND) == []) for _ in range(5))
            < snapshot.READ_TIMEOUT / 2
        )
    finally:
        broker.process.send_signal(signal.SIGCONT)
    wait_until(lambda: offered(view) == ["a@h"])


def test_with_a_wrong_password_there_are_no_candidates(broker: BrokerServer) -> None:
    client = BrokerClient(broker.url.replace("redis://", "redis://:wrong@"), make_settings())
    view = Snapshot(client, LoadScore())
    try:
        assert view.decide(BACKGROUND) == []
    finally:
        view.close()


def test_a_published_task_carries_its_candidates_to_the_channel(
    client: BrokerClient, broker: BrokerServer
) -> None:
    join(client, "a@h", cpu=0.5)
    join(client, "b@h", gpu=True)
    app = Celery("routed", broker=broker.url, set_as_current=False)
    app.conf.task_default_queue = BACKGROUND
    router = Router(app, client, LoadScore())
    app.conf.task_routes = [router]
    try:
        app.send_task("tasks.add", (1, 2), requirements={"gpu": True}, affinity="k", priority=9)
        app.send_task("tasks.add", (1, 2), priority=9)
    finally:
        router.close()
        app.close()
    plain, picky = stored(client.redis)
    assert picky["properties"]["hive_candidates"] == [["b@h", 2, -1.0]]
    assert (
        picky["headers"]["hive"].items()
        >= {"home": Requirements(gpu=True).home, "aff": "k"}.items()
    )
    assert picky["headers"]["hive"]["req"] == {"gpu": True}
    assert plain["properties"]["hive_candidates"] == [["b@h", 2, 0.0], ["a@h", 2, 0.2]]
    assert not {"home", "req", "aff"} & {*plain["headers"].get("hive", {})}
    assert not {"requirements", "affinity"} & {*plain["properties"], *picky["properties"]}


def stored(connection: redis.Redis) -> list[dict[str, Any]]:
    """The messages that kombu's own channel put into the queue's lists, the newest first."""
    lists = [key for key in connection.keys(f"{BACKGROUND}*") if connection.type(key) == b"list"]
    return [json.loads(raw) for key in lists for raw in connection.lrange(key, 0, -1)]
