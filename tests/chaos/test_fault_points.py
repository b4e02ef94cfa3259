"""Processes killed before, between and after the commands of everything that moves a task: nothing
is lost, nothing is doubled.

The table says which commands an operation sends; the points are made of it, and an operation that
sends others fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hive.broker.ledger.dead_letters import REVIVE
from hive.broker.link.client import BrokerClient
from tests.chaos.conservation import Sight, look
from tests.harness import BrokerServer
from tests.integration.channel_steps import Steps
from tests.integration.cluster import REPOSITORY
from tests.nodes import make_settings

VICTIM, FRESH = "victim@h", "fresh@h/1"
BINDINGS = ("bind",)  # kombu's sets, of a consumer's queue

TABLE: dict[str, tuple[str, ...]] = {
    "publish": ("publish",),
    "publish_a_group": (*BINDINGS, "publish", "publish", "publish"),
    "publish_for_later": (*BINDINGS, "publish", "publish", "publish"),
    "take_what_waits": (*BINDINGS, "attach", "reserve"),
    "take_what_a_plain_producer_sent": (*BINDINGS, "attach", "reserve"),
    "take_what_is_due": (*BINDINGS, "attach", "reserve"),
    "take_what_is_placed": ("attach", "reserve"),
    "acknowledge_while_taking_more": ("reserve",),
    "acknowledge": ("acknowledge", "acknowledge", "acknowledge"),
    "reject": ("acknowledge", "acknowledge", "acknowledge"),
    "reject_and_requeue": ("give_back", "give_back", "give_back"),
    "give_back_what_was_not_started": ("give_back",),
    "give_back_for_the_last_time": ("give_back",),
    "postpone": ("postpone", "postpone"),
    "call_up": ("call_up",),
    "reconnect": (*BINDINGS, "attach", "reserve"),
    "start_with_early_acknowledgement": ("mark_early", "mark_early", "mark_early"),
    "leave": ("acknowledge", "restore"),
    "assign": ("assign", "assign", "assign"),
    "drain_a_node": ("release",),
    "restore_the_dead": (
        *("lease", "restore", "restore", "long_absent", "unplace"),
        *("store_result", "SREM") * 3,
        *("dead_order", "account", "sweep", "sweep_requirements"),
        *("DEL", "HSET", "EXPIRE"),  # how the duties went
    ),
    "retry_a_dead_letter": ("revive", "forget_result") * 3,
    "purge_dead_letters": (*("store_result", "SREM") * 3, "purge_dead"),
    # Two of its five messages at a time, and ten priorities with none.
    "purge_a_queue": ("purge",) * 13,
    "revoke": ("revoke", "PUBLISH"),
}

# Killed after one command is killed before the next: the broker cannot tell the two.
POINTS = [
    (operation, at) for operation, commands in TABLE.items() for at in range(-1, len(commands))
]


class Victims:
    """The process that forks them."""

    def __init__(self, server: BrokerServer, log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.victims"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
                env={**os.environ, **server.environment},
            )

    def die(self, operation: str, at: int, *, after: bool) -> dict[str, Any]:
        """One of them does the operation and dies at that command; `at` -1: not at all."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(
            json.dumps({"operation": operation, "at": at, "after": after}) + "\n"
        )
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        answer: dict[str, Any] = json.loads(line)
        assert answer["died"] or answer["code"] == 0, self.log.read_text()[-3000:]
        return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerServer]:
    """A broker that is not killed, and so has nothing to write down."""
    server = BrokerServer(tmp_path_factory.mktemp("broker"), durable=False).start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def victims(server: BrokerServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    started = Victims(server, tmp_path_factory.mktemp("victims") / "log")
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.fixture
def channel(server: BrokerServer) -> Iterator[Steps]:
    client = BrokerClient(server.url, make_settings())
    client.redis.flushall()
    yield Steps(client)
    client.close()


@pytest.mark.parametrize("operation", TABLE)
def test_the_table_has_every_command(operation: str, victims: Victims, channel: Steps) -> None:
    answer = victims.die(operation, -1, after=False)
    assert tuple(answer["commands"]) == TABLE[operation]
    assert not answer["died"]


@pytest.mark.parametrize(
    ("operation", "at"), POINTS, ids=[f"{operation}-{at + 1}" for operation, at in POINTS]
)
def test_a_process_killed_at_any_command_loses_and_doubles_nothing(
    operation: str, at: int, victims: Victims, channel: Steps
) -> None:
    answer = victims.die(operation, max(at, 0), after=at >= 0)
    assert answer["died"]
    assert tuple(answer["commands"]) == TABLE[operation][: max(at, 0) + 1]
    sight = look(channel.client)
    sight.check()
    if operation.startswith("publish"):
        published = TABLE[operation][: at + 1].count("publish")
        assert sight.counters["accepted"] == published + (operation == "publish")  # one before
    drain(channel, sight)


def drain(channel: Steps, before: Sight) -> None:
    """The dead are restored, and a new node takes all that there is: each once, counted as dead
    only where it was held.
    """
    redis, key = channel.client.redis, channel.client.key
    held = {
        publish_id: value
        for node in (VICTIM, "dead@h", "silent@h")
        for publish_id, value in channel.hash("reserved", node).items()
    }
    deaths = {
        publish_id: channel.entry(publish_id).deaths + (publish_id in held)
        for publish_id in before.entries
    }
    for raw in redis.hkeys(key("epochs")):
        channel.restore(raw.decode(), most=9)
    look(channel.client).check()
    assert {
        publish_id: channel.entry(publish_id).deaths for publish_id in look(channel.client).entries
    }.items() <= deaths.items()
    for raw in redis.hkeys(key("dead")):
        assert channel.run(REVIVE, raw.decode()) == 1
    for raw in redis.zrange(key("delayed"), 0, -1):
        redis.zadd(key("delayed"), {raw: 1})
    channel.attach(FRESH)
    taken = channel.take(FRESH, 100)
    assert len(taken) == len(set(taken)), "nothing is doubled"
    dropped = {publish_id for publish_id, value in held.items() if value.endswith("|early")}
    plain = {publish_id for publish_id in taken if publish_id.startswith("plain")}
    assert {*taken} - plain == before.entries.keys() - dropped - plain, "nothing is lost"
    assert before.plain == len(plain - before.entries.keys())
    channel.acknowledge(FRESH, *taken)
    after = look(channel.client)
    after.check()
    assert not after.entries
