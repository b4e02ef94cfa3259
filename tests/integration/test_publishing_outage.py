"""Sending a task while the broker is away: it waits, then says what became of it; never a silent
drop, never a double.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery._state import _task_stack

import hive
from hive.broker.channel import publishing
from hive.broker.link.client import client_of
from hive.broker.link.priorities import queue_lists
from hive.errors import BrokerUnreachableError
from hive.settings import Settings
from tests.harness import BrokerServer, wait_until
from tests.proxy import Proxy

WAIT = 2.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BrokerServer]:
    started = BrokerServer(tmp_path / "broker").start()
    yield started
    started.kill()


@pytest.fixture
def app(server: BrokerServer) -> Iterator[Celery]:
    settings = Settings.load(
        redis_host="127.0.0.1", redis_port=server.port, hive_publish_timeout=WAIT
    )
    app = hive.install(Celery("outage", set_as_current=False), settings)
    app.send_task("first", ignore_result=True)
    yield app
    client_of(app).close()
    hive.app.set_default()


@pytest.fixture
def proxy(server: BrokerServer) -> Iterator[Proxy]:
    with closing(Proxy(server.port)) as proxy:
        yield proxy


@pytest.fixture
def app_behind(proxy: Proxy) -> Iterator[Celery]:
    """An application that reaches its broker through the proxy, and has sent a first task."""
    settings = Settings.load(redis_host="127.0.0.1", redis_port=proxy.port, hive_publish_timeout=60)
    app = hive.install(Celery("behind", set_as_current=False), settings)
    app.send_task("first", ignore_result=True)
    yield app
    client_of(app).close()
    hive.app.set_default()


def accepted(server: BrokerServer) -> int:
    with server.client() as client:
        assert client.hlen("venom:entries") == int(client.hget("venom:counters", "accepted") or 0)
        return int(client.hlen("venom:entries")) - 1


def test_a_task_that_could_not_be_sent_is_said_to_be_unsent(
    server: BrokerServer, app: Celery
) -> None:
    server.kill()
    began = time.monotonic()
    with pytest.raises(BrokerUnreachableError, match="not answer") as told:
        app.send_task("second", ignore_result=True)
    assert time.monotonic() - began > WAIT / 2
    assert told.value.outcome in ("unsent", "unknown")
    server.start()
    assert accepted(server) == 0


def test_a_task_whose_reply_is_missing_may_be_sent_again_under_its_id(
    server: BrokerServer, app: Celery
) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(BrokerUnreachableError, match="may have been accepted") as told:
            app.send_task("second", ignore_result=True)
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert told.value.outcome == "unknown"
    again = {"hive": {"id": told.value.publish_id, "keep": True}}
    app.send_task("second", ignore_result=True, headers=again)
    sent = app.send_task("second", ignore_result=True, headers=again, task_id=told.value.task_id)
    assert accepted(server) == 1
    with server.client() as client:
        assert client.hget("venom:ids", sent.id) == told.value.publish_id.encode(), (
            "whose result is waited for is the one that was accepted"
        )


def test_a_task_sent_during_a_short_outage_is_accepted_once(
    server: BrokerServer, app: Celery
) -> None:
    server.kill()
    back = threading.Timer(WAIT / 4, server.start)
    back.start()
    try:
        app.send_task("second", ignore_result=True)
    finally:
        back.join()
    assert accepted(server) == 1


@pytest.mark.parametrize("task_id", ["parent", "child"])
def test_what_a_run_sends_through_an_outage_is_remembered_as_its_own(
    server: BrokerServer, app: Celery, task_id: str
) -> None:
    """Its retry, too: killed right after that, it must not run again."""

    def parent() -> None: ...

    task: Any = app.task(name="parent")(parent)
    task.apply_async(task_id="parent", ignore_result=True)
    with server.client() as client:
        publish_id = client.hget("venom:ids", "parent").decode()
    held = {"id": publish_id, "inc": "a@h/1", "node": "a@h", "at": 1e12, "deaths": 0}
    server.kill()
    back = threading.Timer(2 * WAIT, server.start)
    back.start()
    _task_stack.push(task)
    task.push_request(id="parent", hive=held, called_directly=False)
    try:
        app.send_task("second", task_id=task_id, retries=1, ignore_result=True)
    finally:
        task.pop_request()
        _task_stack.pop()
        back.join()
    assert accepted(server) == 2
    with server.client() as client:
        sent = client.smembers(f"venom:sent:{publish_id}")
    assert (len(sent), b"successor" in sent) == ((2, True) if task_id == "parent" else (1, False))


def test_a_task_whose_reply_a_silent_connection_swallowed_is_accepted_once(
    server: BrokerServer, proxy: Proxy, app_behind: Celery
) -> None:
    proxy.silence(asks=True)
    app_behind.send_task("second", ignore_result=True)
    assert accepted(server) == 1
    assert not publishing._unknown, "the process keeps nothing of it"
    with server.client() as client:
        assert int(client.hget("venom:counters", "duplicates")) == 1, (
            "it was sent twice, under one id"
        )


def test_a_task_sent_during_a_fail_over_is_accepted_once(
    server: BrokerServer, proxy: Proxy, app_behind: Celery, tmp_path: Path
) -> None:
    with server.client() as client, ThreadPoolExecutor(1) as sender:
        client.config_set("repl-diskless-sync-delay", 0)
        replica = BrokerServer(
            tmp_path / "replica", options=("--replicaof", "127.0.0.1", str(server.port))
        ).start()
        try:
            with replica.client() as promoted:
                wait_until(
                    lambda: promoted.info("replication")["master_link_status"] == "up",
                    what="the replica has all",
                )
                server.kill()
                sending = sender.submit(app_behind.send_task, "second", ignore_result=True)
                proxy.switch(replica.port)  # which refuses to write for now
                wait_until(
                    lambda: promoted.info("replication")["master_link_status"] == "down",
                    what="it knows that it is alone",
                )
                promoted.replicaof("no", "one")
            sending.result(60)
            assert accepted(replica) == 1
        finally:
            replica.kill()


def test_what_was_accepted_survives_the_brokers_kill(server: BrokerServer, app: Celery) -> None:
    for number in range(20):
        app.send_task(f"task {number}", ignore_result=True)
    server.kill()  # with appendfsync always
    server.start()
    assert accepted(server) == 20
    with server.client() as client:
        assert (
            sum(
                client.llen(name)
                for name in queue_lists(client_of(app).settings.hive_background_queue)
            )
            == 21
        )
