"""Commands to the nodes, when the broker fails over: subscribers and callers go on after it,
whatever it answers meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import hive
from hive.broker.control.broadcast import BroadcastCaller
from hive.broker.control.draining import RESUME, tell
from hive.broker.control.mailbox import HIVE_COMMAND
from hive.broker.control.subscription import BroadcastSubscription
from hive.broker.link.client import client_of
from hive.broker.message_broker import MessageBroker
from hive.errors import BrokerUnreachableError
from hive.settings import Settings
from tests.harness import BrokerServer, wait_until
from tests.integration.cluster import Cluster
from tests.proxy import Proxy

NODE = "one@h"
PONG = {NODE: {"ok": "pong"}}
PING = {"command": "PING", "arguments": {}}


class FailingOver(Cluster):
    """A hive that reaches its broker by an address which can lead to another server."""

    def __init__(self, directory: Path) -> None:
        self.first = BrokerServer(
            directory / "first", options=("--repl-diskless-sync-delay", "0")
        ).start()
        self.second = BrokerServer(
            directory / "second", options=("--replicaof", "127.0.0.1", str(self.first.port))
        ).start()
        with self.second.client() as client:
            wait_until(
                lambda: client.info("replication")["master_link_status"] == "up",
                what="the replica is in step",
            )
        self.proxy = Proxy(self.first.port)
        super().__init__(directory, server=self.first, port=self.proxy.port)
        # Programs wait 15 s for an answer.
        self.app.hive = client_of(self.app).with_timeout(2)
        self.spawn("one")
        self.wait_online("one")

    def close(self) -> None:
        super().close()
        self.proxy.close()
        for server in (self.first, self.second):
            server.kill()

    def moves_before_it_is_promoted(self) -> Callable[[], object]:
        """The address leads to the replica, which is promoted later. Returns: the promotion."""
        self.proxy.switch(self.second.port)
        return lambda: self.change(self.second, "NO", "ONE")

    def moves_to_one_that_waits_for_its_master(self) -> Callable[[], object]:
        """Such a replica answers MASTERDOWN to nearly everything."""
        with self.second.client() as client:
            client.config_set("replica-serve-stale-data", "no")
        self.first.kill()
        return self.moves_before_it_is_promoted()

    def is_demoted(self) -> Callable[[], object]:
        """The master becomes a replica of nobody that answers, and its connections are cut."""
        self.change(self.first, "127.0.0.1", "1")
        self.proxy.switch(self.first.port)
        return lambda: self.change(self.first, "NO", "ONE")

    def is_demoted_and_keeps_its_connections(self) -> Callable[[], object]:
        self.change(self.first, "127.0.0.1", "1")
        return lambda: self.change(self.first, "NO", "ONE")

    def falls_silent(self) -> Callable[[], object]:
        """The machine is gone without a word, and another has its address."""
        self.change(self.second, "NO", "ONE")
        self.proxy.silence()
        self.proxy.target = self.second.port
        return lambda: None

    def change(self, server: BrokerServer, *master: str) -> None:
        with server.client() as client:
            client.replicaof(*master)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FailingOver]:
    cluster = FailingOver(tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture
def broker(cluster: FailingOver) -> MessageBroker:
    return MessageBroker(cluster.app)


REFUSING = [
    FailingOver.moves_before_it_is_promoted,
    FailingOver.moves_to_one_that_waits_for_its_master,
    FailingOver.is_demoted,
]
ALL = [
    *REFUSING,
    FailingOver.is_demoted_and_keeps_its_connections,
    pytest.param(FailingOver.falls_silent, marks=pytest.mark.slow),
]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 40) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def answered(broker: MessageBroker, command: str = "PING") -> bool:
    """Whether the node answers a command; meanwhile the broker may be away, in Hive's words."""
    try:
        return NODE in await broker.broadcast_control(command, wait_timeout=1)
    except BrokerUnreachableError:
        return False


@pytest.mark.parametrize("fails_over", ALL, ids=lambda way: way.__name__)
def test_subscribers_and_callers_go_on_after_a_fail_over(
    cluster: FailingOver,
    broker: MessageBroker,
    fails_over: Callable[[FailingOver], Callable[[], object]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def lost() -> bool:
        return caplog.text.count("subscription_lost") > 1

    async def scene() -> dict[str, Any]:
        async with await broker.subscribe_broadcast() as subscription:
            await until(lambda: answered(broker))
            promote = fails_over(cluster)
            if fails_over in REFUSING:
                await until(lost)  # more than once: it subscribes to one that refuses
                with pytest.raises(BrokerUnreachableError):
                    await broker.broadcast_control("PING", wait_timeout=1)
            promote()
            heard = asyncio.create_task(_last(subscription))

            async def both() -> bool:
                return await answered(broker, "LAST") and heard.done()

            await until(both)
            await broker.disconnect()
            return heard.result()

    assert asyncio.run(scene())["command"] == "LAST"


async def _last(subscription: BroadcastSubscription) -> dict[str, Any]:
    return await anext(
        command async for command in subscription.listen() if command["command"] == "LAST"
    )


def test_a_call_that_has_time_waits_for_the_end_of_a_fail_over(
    cluster: FailingOver, caplog: pytest.LogCaptureFixture
) -> None:
    caller, replies = BroadcastCaller(cluster.app), []
    promote = cluster.is_demoted()

    def call() -> None:
        # The node itself may still be away when the command is sent, so it is sent again.
        while not replies or not replies[-1]:
            replies.append(caller.call(HIVE_COMMAND, PING, {NODE}, timeout=5))

    calls = threading.Thread(target=call)
    calls.start()
    wait_until(lambda: "broadcast_connection_lost" in caplog.text, what="it met the fail-over")
    promote()
    calls.join(30)
    assert replies[-1] == PONG
    caller.close()


def test_a_caller_is_closed_although_its_broker_is_a_replica_now(cluster: FailingOver) -> None:
    caller = BroadcastCaller(cluster.app)
    wait_until(lambda: caller.call(HIVE_COMMAND, PING, {NODE}, timeout=3) == PONG)
    promote = cluster.is_demoted_and_keeps_its_connections()
    caller.close()
    with pytest.raises(BrokerUnreachableError, match="refuses for now"):
        tell(cluster.app, RESUME, [NODE])
    promote()
    cluster.wait_online("one")
    wait_until(lambda: "ok" in tell(cluster.app, RESUME, [NODE])[NODE])


def test_a_subscriber_outlives_what_it_cannot_read(broker_server: BrokerServer) -> None:
    settings = Settings.load(redis_host="127.0.0.1", redis_port=broker_server.port)
    listens = MessageBroker(hive.install(Celery("listens"), settings))
    channel = f"/0.{settings.hive_broadcast_channel}.pidbox"
    form = {"properties": {"delivery_tag": "1"}, "content-encoding": "utf-8"}
    json_form = {**form, "content-type": "application/json"}
    messages: tuple[object, ...] = (
        [],
        7,
        {},
        {"body": 1},
        {"body": "x", **form, "content-type": "x/y"},
        {"body": "x", **json_form},
        {"body": "[1]", **json_form},
        {"body": json.dumps({"method": HIVE_COMMAND, "arguments": [1]}), **json_form},
    )

    async def scene() -> dict[str, Any]:
        async with await listens.subscribe_broadcast() as subscription:
            with broker_server.client() as client:
                for message in ("no json", *map(json.dumps, messages)):
                    client.publish(channel, message)
            heard = asyncio.create_task(_last(subscription))

            async def done() -> bool:
                await listens.broadcast_control("LAST", wait_timeout=0)
                return heard.done()

            await until(done)
            await listens.disconnect()
            return heard.result()

    assert asyncio.run(scene())["command"] == "LAST"
