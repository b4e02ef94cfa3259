"""hive.map(…, concurrency=N): several items of an async skill at a time, in one slot."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hive
from hive.errors import InvalidInputError
from tests.harness import wait_until
from tests.integration import async_skills as skills
from tests.integration import map_skills
from tests.integration.map_cluster import MapCluster, by_index

TASKS = ("-I", "tests.integration.async_skills")


@pytest.fixture(scope="module", params=["prefork"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MapCluster]:
    cluster = MapCluster(tmp_path_factory.mktemp("at_once"))
    try:
        cluster.spawn("a", concurrency=1, options=(*TASKS, "--pool", request.param))
        cluster.wait_online("a")
        yield cluster
    finally:
        cluster.close()


@pytest.mark.parametrize("cluster", ["prefork", "threads", "solo"], indirect=True)
def test_one_slot_waits_for_many_items_at_a_time(cluster: MapCluster) -> None:
    begun = time.monotonic()
    job = hive.map(skills.page, range(60), app=cluster.app, concurrency=20)
    outcomes = by_index(iter(job))
    assert time.monotonic() - begun < 10  # one by one it takes eighteen seconds and more
    late, failed = outcomes.pop(4), [outcomes.pop(number) for number in range(9, 60, 10)]
    assert (late.status, late.error) == ("timeout", "ran longer than 2 s")
    assert {outcome.error for outcome in failed} == {
        f"ConnectionError: no page {number}" for number in range(9, 60, 10)
    }
    name = skills.page.name
    for index, outcome in outcomes.items():
        assert outcome.value[:1] + outcome.value[2:] == [index, f"{job.id}:{index}", name]
        assert 0.3 <= outcome.seconds < 2
    assert 10 < max(outcome.value[1] for outcome in outcomes.values()) <= 20
    assert [outcome.index for outcome in job.result(5).outcomes] == list(range(60))


def test_so_it_is_with_an_iterator_and_a_reduce(cluster: MapCluster) -> None:
    items = (number for number in range(100))
    job = hive.map(skills.page_of_tenant, items, "list", app=cluster.app, concurrency=10)
    assert job.result(30).value == [f"somebody {number}" for number in range(100)]


@pytest.mark.parametrize("skill", [skills.leaves_at_three, skills.leaves_in_a_task_of_its_own])
def test_an_item_that_exits_leaves_the_others_alone(cluster: MapCluster, skill: Any) -> None:
    outcomes = by_index(iter(hive.map(skill, range(8), app=cluster.app, concurrency=8)))
    left = outcomes.pop(3)
    assert (left.status, left.error) == ("failed", "SystemExit: 3")
    assert [outcomes[index].value for index in sorted(outcomes)] == [0, 1, 2, 4, 5, 6, 7]


def test_items_that_run_at_a_time_send_tasks_and_map(cluster: MapCluster) -> None:
    job = hive.map(skills.sends_on, range(6), "list", app=cluster.app, concurrency=3)
    assert job.result(60).value == [number * (number - 1) for number in range(6)]


def test_tiny_items_are_none_the_worse(cluster: MapCluster) -> None:
    job = hive.map(skills.double, range(2000), "sum", app=cluster.app, concurrency=4)
    assert job.result(30).value == 2 * sum(range(2000))


def test_what_runs_at_a_time_may_map(cluster: MapCluster) -> None:
    outcomes = list(hive.map(skills.awaits_a_map, [3, 4, 5], app=cluster.app, concurrency=3))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert sorted(outcome.value for outcome in outcomes) == [6, 12, 20]


def test_all_that_run_at_a_time_are_cancelled(cluster: MapCluster) -> None:
    job = hive.map(skills.waits_for_ever, range(30), app=cluster.app, concurrency=10)
    wait_until(lambda: job.progress().running >= 10, what="ten run")
    job.cancel()
    outcomes = job.result(30).outcomes
    assert [outcome.status for outcome in outcomes] == ["cancelled"] * 30
    assert sum(outcome.attempts for outcome in outcomes) == 10


def test_the_jobs_deadline_ends_them_all(cluster: MapCluster) -> None:
    job = hive.map(skills.waits_for_ever, range(30), app=cluster.app, concurrency=10, timeout=1)
    assert [outcome.status for outcome in job.result(30).outcomes] == ["timeout"] * 30


@pytest.mark.parametrize("wanted", [0, -1, 1001, 1.5, True, "2"])
def test_another_number_is_refused(cluster: MapCluster, wanted: object) -> None:
    with pytest.raises(InvalidInputError, match="concurrency is a number of items, 1 to 1000"):
        hive.map(skills.page, [1], app=cluster.app, concurrency=wanted)  # type: ignore[arg-type]


def test_a_skill_that_is_not_async_is_refused(cluster: MapCluster) -> None:
    with pytest.raises(InvalidInputError, match="is no async def, and so runs one item at a time"):
        hive.map(map_skills.square, [1], app=cluster.app, concurrency=2)


def test_a_broker_that_restarts_lets_no_item_run_twice(tmp_path: Path) -> None:
    cluster = MapCluster(tmp_path)
    try:
        worker = cluster.spawn("a", concurrency=1, options=TASKS)
        cluster.wait_online("a")
        logs = [str(tmp_path / f"log {number}") for number in range(12)]
        job = hive.map(skills.writes_that_it_began, logs, "count", app=cluster.app, concurrency=6)
        wait_until(lambda: all(Path(log).exists() for log in logs[:6]), what="six run")
        cluster.server.kill(signal.SIGKILL)
        wait_until(lambda: "puller_waits_for_broker" in worker.output(), what="an item is done")
        cluster.server.start()
        assert len(by_index(iter(job))) == 12
        assert [Path(log).read_text() for log in logs] == ["x"] * 12
    finally:
        cluster.close()
