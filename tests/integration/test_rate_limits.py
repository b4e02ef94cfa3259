"""Tasks with a rate limit, and tasks that are not due: waiting is not running, with real spores."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult

from hive.broker.channel.entries import Entry
from hive.broker.channel.incarnation import Incarnation, Wait
from hive.broker.control.draining import DRAIN, RESUME, tell
from hive.broker.ledger.records import TaskRecords
from hive.broker.link.client import BrokerClient, client_of
from tests.chaos.conservation import look
from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration.channel_steps import Steps
from tests.integration.cluster import REPOSITORY, Cluster
from tests.nodes import BACKGROUND, make_settings

TASKS = """
import os
import time
from celery import shared_task

def note(path, what):
    with open(path, "a") as log:
        print(what, time.time(), file=log)
    return what

for n in range(20):  # each test takes its own: a token bucket is full only once
    shared_task(name=f"hourly_{n}", rate_limit="1/h")(note)
shared_task(name="early", rate_limit="1/h", acks_late=False)(note)
shared_task(name="paced", rate_limit="4/s")(note)
shared_task(name="fast", rate_limit="1000/s")(note)
shared_task(name="free")(note)

@shared_task(name="holds")
def holds(path, what, go):
    note(path, what)
    while not os.path.exists(go):
        time.sleep(0.02)
"""
hourly = (f"hourly_{n}" for n in itertools.count())


class Rationed(Cluster):
    """Spores of two slots that know these tasks."""

    def begin(self, name: str, *options: str, **env: str) -> WorkerProcess:
        paths = os.pathsep.join((str(self.directory), str(REPOSITORY)))
        return self.spawn(
            name, env={"PYTHONPATH": paths, **env}, options=("-I", "rationed", *options)
        )

    def kill(self, spore: WorkerProcess) -> None:
        spore.kill()
        self.spores.remove(spore)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rationed]:
    directory = tmp_path_factory.mktemp("rationed")
    (directory / "rationed.py").write_text(TASKS)
    cluster = Rationed(directory, hive_heartbeat_interval=0.5)
    try:
        cluster.begin("a")
        cluster.wait_online("a")
        yield cluster
    finally:
        cluster.close()


class Notes:
    """Sends tasks that note when they ran, and reads what they noted."""

    def __init__(self, cluster: Rationed, path: Path) -> None:
        self.app = cluster.app
        self.steps = Steps(client_of(cluster.app))
        self.path = path

    def send(self, task: str, *names: Any, **options: Any) -> list[AsyncResult[Any]]:
        return [self.app.send_task(task, (str(self.path), name), **options) for name in names]

    @property
    def ran(self) -> list[tuple[str, float]]:
        lines = self.path.read_text().split("\n")[:-1] if self.path.exists() else []
        return [(name, float(at)) for name, _, at in (line.partition(" ") for line in lines)]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.ran]

    @property
    def delayed(self) -> int:
        return int(self.steps.redis.zcard(self.steps.client.key("delayed")))

    def wait_for_waiting(self, count: int, node: str = "a@h") -> None:
        """Until so many wait, and the node holds nothing."""
        wait_until(lambda: self.delayed == count, what=f"{count} wait in the broker")
        wait_until(lambda: not self.steps.hash("reserved", node), what="none is held")

    def revoke_all(self) -> None:
        ids = [*self.steps.hash("ids")]
        self.app.control.revoke(ids)
        wait_until(lambda: not self.steps.hash("entries"), 20, "what was left is revoked")

    def deaths(self) -> set[int]:
        entries = self.steps.redis.hgetall(self.steps.client.key("entries"))
        return {Entry.head(name.decode(), packed).deaths for name, packed in entries.items()}


@pytest.fixture
def notes(cluster: Rationed, tmp_path: Path) -> Iterator[Notes]:
    notes = Notes(cluster, tmp_path / "notes")
    yield notes
    notes.revoke_all()


def test_other_tasks_run_beside_those_that_wait_for_their_rate_limit(
    cluster: Rationed, notes: Notes
) -> None:
    waiting = notes.send(next(hourly), *range(8))
    wait_until(lambda: notes.names == ["0"])
    notes.wait_for_waiting(7)
    began = time.monotonic()
    for result in notes.send("free", *"abcdefgh"):
        result.get(timeout=30)
    assert time.monotonic() - began < 15
    assert notes.names[0] == "0"
    assert sorted(notes.names[1:]) == [*"abcdefgh"]
    notes.wait_for_waiting(7)
    assert notes.deaths() == {0}
    record = TaskRecords(cluster.app).read(waiting[1].id)
    assert record is not None
    assert (record.status, record.attempt, waiting[1].status) == ("pending", 0, "PENDING")
    look(notes.steps.client).check()


def test_each_runs_once_in_its_order_and_at_its_rate(notes: Notes) -> None:
    results = notes.send("paced", *range(8))
    for result in results:
        result.get(timeout=30)
    assert notes.names == [str(n) for n in range(8)]
    moments = [at for _, at in notes.ran]
    assert moments[-1] - moments[0] >= 7 * 0.25 - 0.1, "a token each quarter of a second"
    assert moments[-1] - moments[0] < 10


def test_a_rate_limit_that_is_hardly_felt_costs_little(notes: Notes) -> None:
    results = notes.send("fast", *range(200))
    for result in results:
        result.get(timeout=30)
    assert sorted(map(int, notes.names)) == [*range(200)]


@pytest.mark.parametrize("limit", ["50/s", 0])
def test_a_changed_rate_limit_holds_for_those_that_wait(
    cluster: Rationed, notes: Notes, limit: str | int
) -> None:
    task = next(hourly)
    results = notes.send(task, *range(6))
    notes.wait_for_waiting(5)
    cluster.app.control.rate_limit(task, limit)
    for result in results:
        result.get(timeout=20)
    assert sorted(notes.names) == [*"012345"]


def test_what_is_revoked_or_expires_while_it_waits_is_told_so_and_never_runs(
    cluster: Rationed, notes: Notes
) -> None:
    task = next(hourly)
    notes.send(task, "first")
    wait_until(lambda: notes.names == ["first"])
    (revoked,) = notes.send(task, "revoked")
    (expires,) = notes.send(task, "expires", expires=3)
    (waits,) = notes.send(task, "waits")
    notes.wait_for_waiting(3)
    cluster.app.control.revoke(revoked.id)
    wait_until(lambda: (revoked.status, expires.status) == ("REVOKED", "REVOKED"), 20)
    wait_until(lambda: len(notes.steps.hash("entries")) == 1, 20)
    assert (waits.status, notes.names) == ("PENDING", ["first"])


def test_each_node_has_a_limit_of_its_own(cluster: Rationed, notes: Notes) -> None:
    notes.send(next(hourly), *range(4))
    notes.wait_for_waiting(3)
    other = cluster.begin("b")
    wait_until(lambda: notes.names == ["0", "1"], what="the new node comes for the oldest")
    notes.wait_for_waiting(2)
    cluster.kill(other)


def test_what_waits_outlives_its_node_and_runs_when_that_is_back(
    cluster: Rationed, notes: Notes
) -> None:
    notes.send(next(hourly), *range(4), queue="outlives")
    first = cluster.begin("outlives", "-Q", "outlives")
    notes.wait_for_waiting(3, "outlives@h")
    cluster.kill(first)
    again = cluster.begin("outlives", "-Q", "outlives")
    wait_until(lambda: notes.names == ["0", "1"], what="it has a token again")
    notes.wait_for_waiting(2, "outlives@h")
    assert notes.deaths() == {0}
    notes.revoke_all()
    cluster.kill(again)


def test_a_draining_node_calls_nothing(cluster: Rationed, notes: Notes) -> None:
    task = next(hourly)
    results = notes.send(task, *range(3))
    notes.wait_for_waiting(2)
    assert tell(cluster.app, DRAIN, ["a@h"])["a@h"] == {"ok": {"running": 0, "given_back": 0}}
    cluster.app.control.rate_limit(task, "50/s")
    asked = notes.steps.redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    wait_until(
        lambda: notes.steps.redis.info("commandstats")["cmdstat_evalsha"]["calls"] > asked + 10
    )
    assert (notes.names, notes.delayed) == (["0"], 2)
    tell(cluster.app, RESUME, ["a@h"])
    for result in results:
        result.get(timeout=20)


def test_a_node_that_serves_a_queue_again_calls_what_waits_there(
    cluster: Rationed, notes: Notes
) -> None:
    task, spore = next(hourly), cluster.begin("serves", "-Q", "serves")
    results = notes.send(task, *range(3), queue="serves")
    notes.wait_for_waiting(2, "serves@h")
    cluster.app.control.cancel_consumer("serves", destination=["serves@h"], reply=True)
    cluster.app.control.rate_limit(task, 0, destination=["serves@h"], reply=True)
    cluster.app.control.add_consumer("serves", destination=["serves@h"], reply=True)
    for result in results:
        result.get(timeout=20)
    notes.revoke_all()
    cluster.kill(spore)


def test_early_acknowledgement_and_a_countdown_go_together_with_a_rate_limit(notes: Notes) -> None:
    results = notes.send("early", *range(3), countdown=0.5)
    wait_until(lambda: len(notes.names) == 1)
    delayed = notes.steps.client.key("delayed")
    much_later = notes.steps.now() + 30_000
    wait_until(lambda: notes.steps.redis.zcount(delayed, much_later, "+inf") == 2)
    notes.wait_for_waiting(2)
    assert [result.status for result in results].count("SUCCESS") == 1
    assert notes.deaths() == {0}


def test_in_a_pool_of_threads_too_waiting_takes_no_slot(cluster: Rationed, notes: Notes) -> None:
    spore = cluster.begin("threads", "-P", "threads", "-Q", "threads")
    notes.send(next(hourly), *range(4), queue="threads")
    wait_until(lambda: notes.names == ["0"])
    notes.wait_for_waiting(3, "threads@h")
    notes.send("free", "free", queue="threads")[0].get(timeout=20)
    wait_until(lambda: not notes.steps.hash("reserved", "threads@h"), what="none is held")
    notes.revoke_all()
    cluster.kill(spore)


def test_hundreds_that_wait_cost_next_to_nothing(notes: Notes) -> None:
    task = next(hourly)

    def calls() -> int:
        return int(notes.steps.redis.info("commandstats")["cmdstat_evalsha"]["calls"])

    before = calls()
    notes.send(task, *range(300))
    notes.wait_for_waiting(299)
    # One to send each; one to take, and one to postpone, as many as there are slots at the most.
    assert calls() - before < 300 + 2 * 300 + 100
    before, began = calls(), time.monotonic()
    (result,) = notes.send("free", "now")
    result.get(timeout=20)
    wait_until(lambda: time.monotonic() - began > 3)
    assert calls() - before < 40, "heartbeats, and a question each second whether there is work"


@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%dT%H:%M:%S%z", "%Y%m%dT%H%M%S%z", "%Y-%m-%d %H:%M:%S+00"],
    ids=["another zone", "basic", "with a space"],
)
def test_what_plain_celery_sends_for_later_takes_no_slot(
    cluster: Rationed, notes: Notes, form: str
) -> None:
    """Its eta may have a form that the broker's scripts cannot read."""
    zone = UTC if form.endswith("00") else timezone(timedelta(hours=1))
    eta = (datetime.now(zone) + timedelta(seconds=6)).strftime(form)
    ids = [f"later-{form}-{n}" for n in range(3)]
    for task_id in ids:
        body = [[str(notes.path), "later"], {}, {}]
        headers = {"id": task_id, "task": "free", "eta": eta, "lang": "py", "retries": 0}
        message = {
            "body": json.dumps(body),
            "headers": headers,
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "properties": {
                "delivery_tag": task_id,
                "delivery_info": {"exchange": "", "routing_key": BACKGROUND},
                "priority": 0,
            },
        }
        notes.steps.redis.lpush(BACKGROUND, json.dumps(message))
    wait_until(lambda: notes.delayed == 3, what="none is held until then")
    assert notes.steps.hash("reserved", "a@h") == {}
    notes.send("free", "now")[0].get(timeout=20)
    wait_until(lambda: len(notes.names) == 4)
    assert notes.names[0] == "now"
    for task_id in ids:
        assert cluster.app.AsyncResult(task_id).get(timeout=20) == "later"


def test_a_pool_that_has_shrunk_takes_no_more_than_it_can_start(
    cluster: Rationed, notes: Notes, tmp_path: Path
) -> None:
    """Its next heartbeat is far away."""
    options = ("-c", "3", "-Q", "shrinks")
    spore = cluster.begin("shrinks", *options, HIVE_HEARTBEAT_INTERVAL="20")
    for result in notes.send("free", *"abc", queue="shrinks"):
        result.get(timeout=30)
    told = cluster.app.control.pool_shrink(2, destination=["shrinks@h"], reply=True, timeout=10)
    assert told == [{"shrinks@h": {"ok": "pool will shrink"}}]
    go = tmp_path / "go"
    for name in range(3):
        cluster.app.send_task("holds", (str(notes.path), name, str(go)), queue="shrinks")
    wait_until(lambda: len(notes.names) == 4)
    wait_until(lambda: len(notes.steps.waiting("shrinks")) == 2, 10, "the others wait for anybody")
    assert len(notes.steps.hash("reserved", "shrinks@h")) == 1
    go.touch()
    wait_until(lambda: not notes.steps.hash("entries"))
    cluster.kill(spore)


def test_a_broker_that_is_away_when_a_message_is_postponed_loses_nothing(tmp_path: Path) -> None:
    server = BrokerServer(tmp_path).start()
    client = BrokerClient(server.url, make_settings(), timeout=2)
    try:
        steps = Steps(client)
        incarnation = Incarnation(client, "a@h", 2)
        epoch = incarnation.attach()
        steps.publish("p")
        fields = steps.reserve(incarnation.id, 2, epoch=epoch)[3:]
        incarnation.hold(epoch, [("p", "", int(fields[4]))])
        server.kill()
        incarnation.postpone({"p": Wait("calls", 0)})
        assert incarnation.held_line() == "p", "the watchdog must not take it for lost"
        assert incarnation.has_unconfirmed
        server.start()
        assert [*steps.hash("reserved", "a@h")] == ["p"]
        incarnation.flush()
        assert (steps.hash("reserved", "a@h"), incarnation.held_line()) == ({}, "")
        assert steps.redis.zcard(client.key("delayed")) == 1
    finally:
        client.close()
        server.kill()
