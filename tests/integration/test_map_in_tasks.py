"""hive.map in tasks that wait for it: on full slots each works on its own job meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import hive
from hive.broker.link.client import client_of
from hive.jobs.work.recovery import return_leases
from tests.harness import wait_until
from tests.integration import nested_skills as skills
from tests.integration.jobs import wait_for
from tests.integration.map_cluster import MapCluster, by_index, map_cluster, wait_for_run

NESTED = ("-I", "tests.integration.nested_skills")
SQUARES = sum(number * number for number in range(20))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapCluster]:
    """A node of two slots: two tasks that wait fill it."""
    with map_cluster(tmp_path_factory.mktemp("nested")) as cluster:
        cluster.spore("one", options=NESTED)
        yield cluster


@contextmanager
def occupied(cluster: MapCluster, directory: Path) -> Iterator[None]:
    """One slot of the two is taken meanwhile: a task in the other has nobody beside it."""
    begun, go = directory / "begun", directory / "go"
    task = wait_for.delay(begun=str(begun), go=str(go))
    wait_until(begun.exists, what="a slot is taken")
    try:
        yield
    finally:
        go.touch()
        task.get(timeout=40)


@pytest.mark.parametrize(
    ("how", "value"),
    [
        ("result", SQUARES),
        ("for", [number * number for number in range(20)]),
        ("await", SQUARES),
        ("async for", [number * number for number in range(20)]),
        ("looks again and again", SQUARES),
        ("polls its progress", SQUARES),
        ("retries", SQUARES),
        ("an iterator", SQUARES),
        ("opened by its id", SQUARES),
        ("a reduce task", [0, 361, 20]),
        ("cancels", ["cancelled"]),
        ("a deadline", [1, ["ok", "timeout", "timeout", "timeout"]]),
        ("an async skill", SQUARES),
        ("nothing", 0),
    ],
)
def test_tasks_on_all_slots_that_wait_for_their_own_maps_end(
    cluster: MapCluster, tmp_path: Path, how: str, value: Any
) -> None:
    sent = [skills.waits.delay(how, str(tmp_path), 2) for _ in range(2)]
    assert [one.get(timeout=40) for one in sent] == [value] * 2


def test_threads_of_tasks_on_all_slots_that_wait_for_maps_end(
    cluster: MapCluster, tmp_path: Path
) -> None:
    sent = [skills.asks_in_threads.delay(str(tmp_path), 2) for _ in range(2)]
    assert [one.get(timeout=40) for one in sent] == [[204, 204, 204]] * 2


def test_a_waiting_task_runs_no_item_whose_requirements_its_node_does_not_meet(
    cluster: MapCluster, tmp_path: Path
) -> None:
    with occupied(cluster, tmp_path):
        cluster.spore("other", concurrency=1, options=NESTED)
        for wanted in ({"node": "other@h"}, {"node": "one@h"}):
            task = skills.maps_elsewhere.apply_async((wanted,), requirements={"node": "one@h"})
            assert task.get(timeout=40) == [wanted["node"]] * 4
    cluster.spores[-1].stop()


def test_a_map_of_maps_of_maps_ends(cluster: MapCluster) -> None:
    result = hive.map(skills.tree, [3, 3, 2], "sum", app=cluster.app).result(60)
    assert (result.value, result.error, result.complete) == (20, None, True)
    assert {outcome.attempts for outcome in result.outcomes} == {1}


def test_a_task_is_itself_again_after_it_has_worked_on_its_map(cluster: MapCluster) -> None:
    seen, own, all_seen = skills.keeps_its_request.delay(30).get(timeout=40)
    assert seen == 31
    assert all_seen == [own] * 31


def test_an_item_that_a_waiting_task_runs_has_its_own_limit(cluster: MapCluster) -> None:
    statuses = hive.map(skills.maps_limited, [[0.0, 30.0, 0.01]] * 2, app=cluster.app).result(40)
    assert [outcome.value for outcome in statuses.outcomes] == [["ok", "timeout", "ok"]] * 2


@pytest.mark.parametrize("how", ["sync await", "sync result", "async await", "async result"])
def test_async_tasks_on_all_slots_that_wait_for_their_own_maps_end(
    cluster: MapCluster, tmp_path: Path, how: str
) -> None:
    sent = [skills.async_waits.delay(how, str(tmp_path), 2) for _ in range(2)]
    assert [one.get(timeout=40) for one in sent] == [SQUARES] * 2


@pytest.mark.parametrize("how", skills.LONG)
def test_a_task_that_runs_out_of_time_gives_back_the_item_that_it_ran(
    cluster: MapCluster, tmp_path: Path, how: str
) -> None:
    with occupied(cluster, tmp_path):
        task = skills.runs_out_of_time.delay(str(tmp_path), how)
        assert task.get(timeout=40) == "interrupted"
        job = hive.job((tmp_path / "job").read_text(), app=cluster.app)
        job.cancel()
        statuses = [outcome.status for outcome in by_index(iter(job)).values()]
        assert statuses[0] == ("ok" if how.startswith("swallowed") else "cancelled")
        assert {"timeout", "failed"}.isdisjoint(statuses)


def test_a_tasks_own_alarm_strikes_it_although_an_item_used_the_alarm(
    cluster: MapCluster, tmp_path: Path
) -> None:
    with occupied(cluster, tmp_path):
        task = skills.has_an_alarm.delay(str(tmp_path))
        assert task.get(timeout=15) == "the task's own alarm"
        hive.job((tmp_path / "job").read_text(), app=cluster.app).cancel()


def test_a_cancelled_map_of_maps_gives_back_what_its_items_ran(
    cluster: MapCluster, tmp_path: Path
) -> None:
    with occupied(cluster, tmp_path):
        outer = hive.map(skills.maps_marked, [[str(tmp_path), 60.0]], app=cluster.app)
        wait_until((tmp_path / "0").exists, what="the waiting item runs one of its own")
        outer.cancel()
        [outcome] = outer.result(20).outcomes
        assert outcome.status == "cancelled"
        inner = hive.job((tmp_path / "job").read_text(), app=cluster.app)
        seen = inner.progress()
        assert (seen.total, seen.completed, seen.failed, seen.cancelled) == (4, 0, 0, 0)
        inner.cancel()


def test_a_task_killed_while_it_works_on_its_map_loses_no_item(
    cluster: MapCluster, tmp_path: Path
) -> None:
    with occupied(cluster, tmp_path):
        task = skills.dies_helping.delay(str(tmp_path))
        assert task.get(timeout=60) == [[number, "ok"] for number in range(20)]
    first, second = sorted(tmp_path.glob("job-*"))
    outcomes = by_index(iter(hive.job(first.read_text(), app=cluster.app)))
    assert sorted(outcome.value for outcome in outcomes.values()) == list(range(20))
    assert outcomes[10].attempts == 2
    assert len(by_index(iter(hive.job(second.read_text(), app=cluster.app)))) == 20


def test_what_a_killed_process_worked_on_runs_at_once_although_its_node_lives(
    cluster: MapCluster, tmp_path: Path
) -> None:
    task = skills.dies_beside_another.delay(str(tmp_path))
    assert task.get(timeout=40) == "again"
    wait_until(
        lambda: len(list(tmp_path.glob("run-*"))) == 3,
        deadline=15,
        what="the item runs again while the other still does",
    )
    (tmp_path / "go").touch()
    outcomes = by_index(iter(hive.job((tmp_path / "job").read_text(), app=cluster.app)))
    assert sorted(outcome.attempts for outcome in outcomes.values()) == [1, 2]


def test_what_a_task_on_a_killed_node_worked_on_runs_elsewhere(
    cluster: MapCluster, tmp_path: Path
) -> None:
    dies = cluster.spore("dies", concurrency=1, options=NESTED)
    skills.maps_marked.apply_async(([str(tmp_path), 2.0],), requirements={"node": "dies@h"})
    client = client_of(cluster.app)
    wait_until((tmp_path / "job").exists, what="the task maps")
    job = hive.job(wait_until((tmp_path / "job").read_text), app=cluster.app)

    def held() -> list[str]:
        reserved = {raw.decode() for raw in client.redis.hkeys("venom:reserved:dies@h")}
        leases = client.redis.hvals(cluster.key(job, "leases"))
        return [owner for owner in reserved if any(owner.encode() in lease for lease in leases)]

    [owner] = wait_until(held, what="the waiting task has a lease")
    dies.kill()
    assert return_leases(client, [owner, "of-another-task"]) == 1
    outcomes = by_index(iter(job))
    assert sorted(outcome.attempts for outcome in outcomes.values()) == [1, 1, 1, 2]
    assert {outcome.node for outcome in outcomes.values()} == {"one@h"}


def test_a_hive_of_one_slot_runs_maps_of_maps(tmp_path: Path) -> None:
    with map_cluster(tmp_path) as cluster:
        cluster.spore("only", concurrency=1, options=NESTED)
        result = hive.map(skills.tree, [2, 2], "sum", app=cluster.app).result(60)
        assert (result.value, result.complete) == (8, True)


def test_a_broker_that_restarts_while_a_task_works_on_its_map_loses_no_outcome(
    tmp_path: Path,
) -> None:
    with map_cluster(tmp_path) as cluster:
        cluster.spore("only", concurrency=1, options=NESTED)
        task = skills.maps_slowly.delay(str(tmp_path), 150)
        wait_until((tmp_path / "job").exists, what="the task maps")
        job = hive.job(wait_until((tmp_path / "job").read_text), app=cluster.app)
        wait_for_run(job, 20)
        cluster.server.kill(signal.SIGKILL)
        cluster.server.start()
        assert task.get(timeout=60) == sum(range(150))
        assert len(by_index(iter(job))) == 150


def test_tasks_in_pool_threads_work_on_their_maps_too(tmp_path: Path) -> None:
    with map_cluster(tmp_path) as cluster:
        cluster.spore("threads", options=(*NESTED, "-P", "threads"))
        sent = [skills.waits.delay("result", str(tmp_path), 2) for _ in range(2)]
        assert [one.get(timeout=40) for one in sent] == [SQUARES] * 2
