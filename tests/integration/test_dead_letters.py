"""Dead letters: listed, read, sent again, purged; by a program and by `hive dead`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import _state, states

from hive.broker.ledger.dead_letters import DeadLetters
from hive.broker.ledger.records import TaskRecords
from hive.errors import DeadLetterError
from tests.harness import BrokerServer, wait_until
from tests.integration.channel_steps import A1, plain_message
from tests.integration.test_cli import Cli
from tests.integration.test_watchdog import Cluster
from tests.nodes import BACKGROUND, HIGH


@pytest.fixture(autouse=True)
def _celery_as_it_was() -> Iterator[None]:
    default = _state.default_app
    yield
    _state.set_default_app(default)


class Graveyard(Cluster):
    """A cluster whose tasks die when they are told to."""

    def __init__(self, server: BrokerServer, **settings: Any) -> None:
        super().__init__(server, **settings)
        self.steps.attach(A1)
        self.letters = DeadLetters(self.app)

    def bury(self, *publish_ids: str) -> list[str]:
        """Let messages die at a moment of their own; returns their task ids."""
        moment = self.steps.now()
        wait_until(lambda: self.steps.now() > moment)
        task_ids = [self.steps.entry(publish_id).task_id for publish_id in publish_ids]
        self.steps.take(A1, 50)
        for publish_id in publish_ids:
            self.steps.give_back(A1, publish_id, most=0)
        return task_ids


@pytest.fixture
def cluster(broker: BrokerServer) -> Iterator[Graveyard]:
    with closing(Graveyard(broker)) as cluster:
        yield cluster


@pytest.fixture
def cli(cluster: Graveyard, broker: BrokerServer, tmp_path: Path) -> Cli:
    return Cli(broker.environment, tmp_path)


def test_they_are_listed_newest_first_in_pages(cluster: Graveyard) -> None:
    sent = [cluster.send() for _ in range(5)]
    task_ids = [task_id for publish_id in sent for task_id in cluster.bury(publish_id)]
    assert [letter.task_id for letter in cluster.letters.page(10)] == task_ids[::-1]
    assert [letter.task_id for letter in cluster.letters.page(2, 1)] == [task_ids[3], task_ids[2]]
    assert cluster.letters.page(2, 5) == []
    assert cluster.letters.count() == 5


def test_one_tells_what_it_was_and_how_it_died(cluster: Graveyard) -> None:
    publish_id = cluster.send(args=(1, "two"), kwargs={"three": [4]}, priority=7, queue=HIGH)
    cluster.steps.take(A1, 1)
    cluster.steps.give_back(A1, publish_id, most=1)
    (task_id,) = cluster.bury(publish_id)
    letter = cluster.letters.find(task_id)
    assert letter is not None
    assert letter == cluster.letters.find(publish_id).model_copy(update={"age": letter.age})
    assert (letter.task, letter.args, letter.kwargs) == ("some.task", [1, "two"], {"three": [4]})
    assert (letter.reason, letter.deaths, letter.home, letter.priority) == (
        "its process died",
        2,
        HIGH,
        7,
    )
    assert [(death.node, death.reason) for death in letter.history] == [
        ("a@h", "its process died")
    ] * 2
    assert letter.created_at <= letter.history[0].at <= letter.history[1].at <= letter.died_at
    assert 0 <= letter.age < 30
    assert cluster.letters.find("unknown") is None


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma"])
def test_a_compressed_one_is_read_and_told_like_any_other(
    cluster: Graveyard, compression: str
) -> None:
    args, records = ("much " * 1000,), TaskRecords(cluster.app)
    publish_id = cluster.send(args=args, compression=compression)
    task_id = cluster.steps.entry(publish_id).task_id
    status = records.read(task_id)
    assert status is not None
    assert (status.status, status.payload) == ("pending", {"args": [*args]})
    cluster.bury(publish_id)
    letter = cluster.letters.find(task_id)
    assert letter is not None
    assert (letter.args, letter.kwargs) == ([*args], {})
    cluster.watchdog.tick()
    with pytest.raises(DeadLetterError):
        cluster.app.AsyncResult(task_id).get(timeout=60)
    assert cluster.letters.retry(task_id)
    assert cluster.steps.waiting(cluster.steps.entry(publish_id).home) == [publish_id]


def test_one_that_is_sent_again_goes_home_and_can_be_waited_for(cluster: Graveyard) -> None:
    (task_id,) = cluster.bury(publish_id := cluster.send(queue=HIGH))
    result = cluster.app.AsyncResult(task_id)
    cluster.watchdog.tick()
    with pytest.raises(DeadLetterError):
        result.get(timeout=60)
    assert cluster.letters.retry(task_id)
    assert (cluster.steps.waiting(HIGH), cluster.steps.entry(publish_id).deaths) == (
        [publish_id],
        0,
    )
    assert cluster.app.AsyncResult(task_id).status == states.PENDING
    assert not cluster.letters.retry(task_id), "it is none any more"
    assert len(cluster.steps.entry(publish_id).history) == 1
    assert TaskRecords(cluster.app).read(task_id).status == "pending"


def test_a_success_that_was_stored_before_the_death_is_kept(cluster: Graveyard) -> None:
    (task_id,) = cluster.bury(cluster.send())
    cluster.app.backend.mark_as_done(task_id, "its result")
    assert cluster.letters.retry(task_id)
    assert cluster.app.AsyncResult(task_id).get(timeout=60) == "its result"


def test_who_waits_for_a_purged_one_is_told(cluster: Graveyard) -> None:
    (task_id, kept) = cluster.bury(cluster.send(), cluster.send())
    assert cluster.letters.purge([task_id, "unknown"]) == 1
    with pytest.raises(DeadLetterError, match="died 1 times"):
        cluster.app.AsyncResult(task_id).get(timeout=60)
    assert [letter.task_id for letter in cluster.letters.page(10)] == [kept]
    assert cluster.app.AsyncResult(kept).status == states.PENDING


@pytest.mark.parametrize(
    "message",
    [
        plain_message("bad").replace("3", "0x3"),
        plain_message("bad").encode().replace(b"W10=", b"\xff"),
        plain_message("bad", task="x.y"),
    ],
)
def test_one_that_cannot_be_read_is_listed_and_purged_by_its_publish_id(
    cluster: Graveyard, message: str | bytes
) -> None:
    cluster.client.redis.lpush(BACKGROUND, message)
    cluster.steps.take(A1, 1)
    cluster.steps.give_back(A1, "bad", most=0)
    (letter,) = cluster.letters.page(10)
    assert (letter.id, letter.args, letter.kwargs, letter.reason) == (
        "bad",
        None,
        None,
        "its process died",
    )
    assert cluster.letters.purge(["bad"]) == 1
    assert cluster.letters.count() == 0


def test_the_command_lists_and_shows(cluster: Graveyard, cli: Cli) -> None:
    assert cli("dead", "list").stdout == "no dead letter\n"
    assert json.loads(cli("dead", "list", "--json").stdout) == []
    sent = [cluster.send(args=("café",)) for _ in range(3)]
    first, _, last = [task_id for publish_id in sent for task_id in cluster.bury(publish_id)]
    listed = json.loads(cli("dead", "list", "--json", "--limit", "2").stdout)
    assert len(listed) == 2
    assert (listed[0]["task_id"], listed[0]["deaths"], listed[0]["home"]) == (last, 1, BACKGROUND)
    assert listed[0].keys().isdisjoint({"args", "kwargs", "history"})
    said = cli("dead", "list", "--offset", "2").stdout
    assert "dead letters 3 to 3 of 3" in said
    assert first in said
    shown = json.loads(cli("dead", "show", first, "--json").stdout)
    assert (shown["args"], shown["history"][0]["node"]) == (["café"], "a@h")
    said = cli("dead", "show", first).stdout
    assert "its process died" in said
    assert '["café"]' in said
    assert "No dead letter has the id 'unknown'" in cli("dead", "show", "unknown", code=1).stderr


def test_the_command_sends_again(cluster: Graveyard, cli: Cli) -> None:
    one, *others = cluster.bury(*(cluster.send() for _ in range(3)))
    assert cli("dead", "retry", one).stdout == "1 dead letter retried\n"
    assert json.loads(cli("dead", "retry", one, others[0], "--json", code=4).stdout) == {
        "retried": 1,
        "unknown": [one],
    }
    assert "no dead letter has the id" in cli("dead", "retry", one, code=1).stderr
    assert json.loads(cli("dead", "retry", "--all", "--json").stdout) == {
        "retried": 1,
        "unknown": [],
    }
    assert len(cluster.steps.waiting(BACKGROUND)) == 3


def test_the_command_purges_once_it_is_told_to(cluster: Graveyard, cli: Cli) -> None:
    one, *_ = cluster.bury(*(cluster.send() for _ in range(3)))
    assert "say --yes" in cli("dead", "purge", one, code=2).stderr
    assert (answer(cli, "n"), cluster.letters.count()) == (1, 3)
    assert (answer(cli, "y", one), cluster.letters.count()) == (0, 2)
    assert json.loads(cli("dead", "purge", "--all", "--yes", "--json").stdout) == {
        "purged": 2,
        "unknown": [],
    }
    assert cluster.letters.count() == 0


def test_the_command_purges_a_queue_once_it_is_told_to(cluster: Graveyard, cli: Cli) -> None:
    for options in (
        {"priority": 9},
        {"priority": 0},
        {"queue": HIGH},
        {"queue": "video"},
        {"countdown": 60},
    ):
        cluster.send(**options)
    assert "say --yes" in cli("queue", "purge", code=2).stderr
    assert json.loads(cli("queue", "purge", "video", "--yes", "--json").stdout) == {"video": 1}
    assert json.loads(cli("queue", "purge", "high_priority", "--yes", "--json").stdout) == {HIGH: 1}
    assert (
        cli("queue", "purge", "--yes").stdout
        == f"0 tasks purged from {HIGH}\n2 tasks purged from {BACKGROUND}\n"
    )
    counters = cluster.steps.counters()
    assert (counters["accepted"], counters["purged"], counters["done"]) == (5, 4, 4)
    assert len(cluster.steps.hash("entries")) == 1, "what is not due yet stays"


def answer(cli: Cli, text: str, *ids: str) -> int:
    """Purge at a terminal, and say `text`; the exit code."""
    terminal, stdin = pty.openpty()
    os.write(terminal, f"{text}\n".encode())
    command = [sys.executable, "-m", "hive", "dead", "purge", *(ids or ["--all"])]
    try:
        return subprocess.run(
            command,
            stdin=stdin,
            capture_output=True,
            env=cli.environment,
            cwd=cli.directory,
            timeout=60,
        ).returncode
    finally:
        os.close(terminal)
        os.close(stdin)
