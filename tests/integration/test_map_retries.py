"""The retries of an item are those of its task: how often, when, what else happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import hive
from hive.broker.link.client import client_of
from hive.jobs.state.outcomes import Outcome
from tests.harness import wait_until
from tests.integration import retry_skills as skills
from tests.integration.map_cluster import MapCluster, map_cluster

SKILLS = ("-I", "tests.integration.retry_skills")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapCluster]:
    with map_cluster(tmp_path_factory.mktemp("map")) as cluster:
        cluster.spawn("one", options=SKILLS)
        cluster.wait_online("one")
        yield cluster


class Log:
    """Where the runs of the items of a test are noted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def item(self, number: int = 0, **wanted: Any) -> dict[str, Any]:
        return {"log": str(self.directory / str(number)), **wanted}

    def begun(self, number: int = 0) -> list[float]:
        """When the runs of an item began, in unix seconds."""
        log = self.directory / str(number)
        return [float(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def told(outcome: Outcome) -> tuple[Any, ...]:
    return outcome.status, outcome.value, outcome.attempts


@pytest.mark.parametrize("kind", ["a list", "an iterator"])
def test_an_item_is_tried_again_as_its_task_says(cluster: MapCluster, log: Log, kind: str) -> None:
    items = [log.item(number, fails=number % 3) for number in range(30)]
    given = items if kind == "a list" else iter(items)
    outcomes = hive.map(skills.flaky, given, app=cluster.app).result(60).outcomes
    tries = [number % 3 + 1 for number in range(30)]
    assert [told(outcome) for outcome in outcomes] == [("ok", n, n) for n in tries]
    assert [len(log.begun(number)) for number in range(30)] == tries


def test_an_item_sees_its_retries_and_keeps_its_bound_arguments(
    cluster: MapCluster, log: Log
) -> None:
    items = [log.item(number, fails=number) for number in range(3)]
    skill = skills.flaky_but.s(bound="x")
    outcomes = hive.map(skill, items, app=cluster.app).result(60).outcomes
    assert [outcome.value for outcome in outcomes] == [[number, "x"] for number in range(3)]


def test_an_item_that_used_up_its_retries_fails_with_its_last_error(
    cluster: MapCluster, log: Log
) -> None:
    items = [log.item(fails=99), log.item(1, reset=True)]
    [often] = hive.map(skills.flaky, items[:1], app=cluster.app).result(60).outcomes
    [never] = hive.map(skills.flaky_but, items[1:], app=cluster.app).result(60).outcomes
    assert (often.error, often.attempts) == ("ConnectionError: reset at try 4", 4)
    assert (never.error, never.attempts) == ("ConnectionResetError: for good", 1)


@pytest.mark.parametrize("chunk", ["auto", 50])
def test_the_others_of_a_lease_have_their_outcomes_once(
    cluster: MapCluster, log: Log, chunk: Any
) -> None:
    items = [log.item(number, fails=int(number % 7 == 3)) for number in range(200)]
    job = hive.map(skills.flaky, items, "sum", chunk=chunk, app=cluster.app)
    outcomes = list(job)
    assert sorted(outcome.index for outcome in outcomes) == list(range(200))
    assert job.result(10).value == sum(1 + int(number % 7 == 3) for number in range(200))
    assert {outcome.attempts for outcome in outcomes} == {1, 2}
    with cluster.server.client() as client:
        names = {name.rpartition(b":")[2] for name in client.keys(f"venom:job:{job.id}:*")}
    assert names == {b"outcomes", b"state", b"value"}


def test_a_backoff_and_its_bound_hold(cluster: MapCluster, log: Log) -> None:
    [outcome] = hive.map(skills.backs_off, [log.item(fails=3)], app=cluster.app).result(60).outcomes
    assert told(outcome) == ("ok", 4, 4)
    waits = [later - earlier for earlier, later in pairwise(log.begun())]
    for wait, least in zip(waits, (1, 2, 2), strict=True):
        assert least - 0.1 <= wait <= least + 5


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"fails": 2, "options": {"countdown": 0}}, ("ok", [3, 2, []], 3)),
        ({"fails": 1, "options": {"countdown": 0.2}}, ("ok", [2, 1, []], 2)),
        ({"fails": 1, "options": {"eta": True}}, ("ok", [2, 1, []], 2)),
        ({"says": True, "options": {"countdown": 0}}, ("failed", "KeyError: 'try 3'", 3)),
        ({"options": {"countdown": 0}}, ("failed", "MaxRetriesExceededError: Can't retry", 3)),
        (
            {"says": True, "options": {"countdown": 0, "max_retries": 0}},
            ("failed", "KeyError: 'try 1'", 1),
        ),
        (
            {"fails": 1, "options": {"countdown": "soon"}},
            ("failed", "InvalidInputError: Its retry is due at no time", 1),
        ),
    ],
)
def test_what_an_item_asks_of_its_retry_holds(
    cluster: MapCluster, log: Log, wanted: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    [outcome] = hive.map(skills.asks, [log.item(**wanted)], app=cluster.app).result(60).outcomes
    status, said, attempts = expected
    assert (outcome.status, outcome.attempts) == (status, attempts), outcome
    if status == "ok":
        assert outcome.value == said
    else:
        assert str(outcome.error).startswith(said)


def test_an_item_is_retried_with_the_arguments_that_it_asks_for(
    cluster: MapCluster, log: Log
) -> None:
    item = log.item(changed=log.item(fails=1), options={"countdown": 0.2})
    [outcome] = hive.map(skills.asks, [item], app=cluster.app).result(60).outcomes
    assert told(outcome) == ("ok", [2, 1, ["more"]], 2)


def test_items_that_wait_hold_no_slot_and_are_pending(cluster: MapCluster, log: Log) -> None:
    items = [log.item(number, fails=1) for number in range(20)]
    job = hive.map(skills.retried_in_a_minute, items, app=cluster.app)
    wait_until(lambda: all(log.begun(number) for number in range(20)), what="all were tried")
    wait_until(lambda: job.progress() == hive.Progress(20, 0, 0, 0, 0, 20), what="all wait")
    assert hive.map(skills.nap, [0, 0, 0], "count", app=cluster.app).result(20).value == 3
    job.cancel()
    result = job.result(30)
    assert {told(outcome) for outcome in result.outcomes} == {("cancelled", None, 1)}
    assert result.complete
    assert all(len(log.begun(number)) == 1 for number in range(20))


def test_a_retry_waits_for_no_long_item_of_its_job(cluster: MapCluster, log: Log) -> None:
    items = [log.item(fails=1), log.item(1, fails=0, nap=8)]
    began = time.time()
    job = hive.map(skills.flaky, items, app=cluster.app)
    first = next(iter(job))
    assert (first.index, first.status, first.attempts) == (0, "ok", 2)
    assert log.begun(0)[1] - began < 6
    job.cancel()


def test_the_deadline_of_a_job_ends_what_waits(cluster: MapCluster, log: Log) -> None:
    items = [log.item(fails=0), log.item(1, fails=1)]
    began = time.monotonic()
    job = hive.map(skills.retried_in_a_minute, items, "sum", timeout=3, app=cluster.app)
    result = job.result(30)
    assert time.monotonic() - began < 15
    assert [told(outcome) for outcome in result.outcomes] == [("ok", 1, 1), ("timeout", None, 1)]
    assert (result.value, result.complete) == (1, True)


def test_rejected_items_stay_failed(cluster: MapCluster, log: Log) -> None:
    [outcome] = hive.map(skills.reject, [log.item()], app=cluster.app).result(30).outcomes
    assert "Reject: an item of a job cannot be" in str(outcome.error)


def test_a_reduce_is_retried_as_its_task_says(cluster: MapCluster, tmp_path: Path) -> None:
    reduce = skills.flaky_reduce.s(str(tmp_path / "log"))
    result = hive.map(skills.nap, [0, 0], reduce, app=cluster.app).result(60)
    assert (result.value, result.error) == (3, None)


def test_a_task_that_waits_for_its_map_runs_what_is_retried(
    cluster: MapCluster, log: Log, tmp_path: Path
) -> None:
    """As many such tasks as there are slots: nobody else runs it."""
    tasks = []
    for number in range(2):
        items = [log.item(10 * number + n, fails=1) for n in range(4)]
        tasks.append(skills.maps_and_waits.delay(items, str(tmp_path / f"reduce-{number}")))
    assert [task.get(timeout=60) for task in tasks] == [4 * 2 + 3] * 2


def test_an_idempotent_item_waits_for_another_with_its_key_and_counts_no_retry(
    cluster: MapCluster, log: Log
) -> None:
    outcomes = hive.map(skills.once, [log.item(), log.item()], app=cluster.app).result(60).outcomes
    assert [(outcome.status, outcome.value) for outcome in outcomes] == [("ok", 1)] * 2
    assert len(log.begun()) == 1


def test_a_job_is_kept_until_its_items_are_due(cluster: MapCluster, log: Log) -> None:
    item = log.item(options={"countdown": 3 * 86_400})
    job = hive.map(skills.asks, [item], app=cluster.app)
    wait_until(lambda: log.begun() and job.progress().pending == 1, what="it waits")
    client = client_of(cluster.app)
    assert client.redis.ttl(cluster.key(job, "later")) > 3 * 86_400
    assert client.redis.ttl(cluster.key(job, "state")) > 3 * 86_400
    job.cancel()


def test_deaths_and_retries_are_told_apart(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with map_cluster(tmp_path, hive_max_retries=2) as cluster, cluster.watchdog():
        cluster.spawn("one", options=SKILLS)
        cluster.wait_online("one")
        items = [log.item(0, kills=2), log.item(1, kills=99)]
        job = hive.map(skills.retried_then_killed, items, app=cluster.app)
        survivor, killer = job.result(90).outcomes
    assert told(survivor) == ("ok", 1, 4), "two deaths are allowed, and a retry is none"
    assert killer.attempts == 4
    assert "killed its worker: the process that ran it ended 3 times" in str(killer.error)
    assert [len(log.begun(number)) for number in range(2)] == [4, 4]


def test_items_that_wait_outlive_the_node_that_ran_them(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with map_cluster(tmp_path) as cluster, cluster.watchdog():
        first = cluster.spawn("one", options=SKILLS)
        cluster.wait_online("one")
        items = [log.item(number, fails=1) for number in range(8)]
        job = hive.map(skills.retried_after_a_while, items, app=cluster.app)
        wait_until(lambda: all(log.begun(number) for number in range(8)), what="all were tried")
        first.kill()
        cluster.spawn("two", options=SKILLS)
        outcomes = job.result(60).outcomes
    assert [outcome.status for outcome in outcomes] == ["ok"] * 8
    assert {outcome.node for outcome in outcomes} == {"two@h"}
    assert {outcome.attempts for outcome in outcomes} <= {2, 3}
