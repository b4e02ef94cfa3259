"""hive.map and time: cancel, deadlines, limits of an item, other tasks' turns, long items among
short ones, waiting without nodes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import hive
from hive.broker.link.client import client_of
from hive.jobs.answer.watch import JobWatch
from hive.jobs.state.plan import stored_plan
from hive.settings import Settings
from tests.harness import BrokerServer, wait_until
from tests.integration import map_skills as skills
from tests.integration.map_cluster import SKILLS, MapCluster, by_index, map_cluster, wait_for_run


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapCluster]:
    with map_cluster(tmp_path_factory.mktemp("map"), "one", "two") as cluster:
        yield cluster


def test_cancel_stops_what_runs_and_what_waits(cluster: MapCluster, tmp_path: Path) -> None:
    items = [(str(tmp_path), number, 0.01 if number < 4 else 30.0) for number in range(50)]
    job = hive.map(skills.marked, items, "count", app=cluster.app)
    wait_until(lambda: len(list(tmp_path.iterdir())) >= 8, what="every slot runs a long item")
    job.cancel()
    result = job.result(20)
    assert result.complete, "it does not wait for the long items"
    assert result.value == 4
    statuses = {outcome.index: outcome.status for outcome in result.outcomes}
    assert len(statuses) == 50
    assert {index for index, status in statuses.items() if status == "ok"} == {0, 1, 2, 3}
    assert set(list(statuses.values())[4:]) == {"cancelled"}
    seen = job.progress()
    assert (seen.completed, seen.cancelled, seen.over) == (4, 46, True)


def test_cancel_leaves_a_job_that_has_ended_as_it_is(cluster: MapCluster) -> None:
    job = hive.map(skills.square, range(20), "sum", app=cluster.app)
    before = job.result(60)
    job.cancel()
    after = job.result(5)
    assert (after.value, list(after.outcomes)) == (before.value, list(before.outcomes))


def test_a_deadline_ends_the_job_with_what_is_done(cluster: MapCluster) -> None:
    items = [0.01] * 8 + [60.0] * 8
    began = time.monotonic()
    result = hive.map(skills.pause, items, "count", timeout=3, app=cluster.app).result(50)
    assert time.monotonic() - began > 2.9
    assert result.complete, "it does not wait for the long items"
    assert result.value == 8
    statuses = [outcome.status for outcome in result.outcomes]
    assert statuses == ["ok"] * 8 + ["timeout"] * 8
    assert all("deadline" in str(outcome.error) for outcome in result.outcomes[8:])


def test_waiting_with_a_timeout_gives_what_is_there(cluster: MapCluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = hive.map(
        skills.gated,
        [(number, str(go) if number >= 4 else None) for number in range(8)],
        "sum",
        app=cluster.app,
    )
    wait_for_run(job, 4)
    partial = job.result(timeout=0.2)
    assert (partial.complete, len(partial.outcomes), partial.value) == (False, 4, 6)
    assert len(job.result(0).outcomes) == 4
    go.touch()
    assert len(job.result(60).outcomes) == 8


@pytest.mark.parametrize("reduce", ["concat", "merge"])
def test_waiting_with_a_timeout_bears_values_that_the_reduce_cannot_take(
    cluster: MapCluster, tmp_path: Path, reduce: Any
) -> None:
    go = tmp_path / "go"
    job = hive.map(
        skills.gated,
        [(number, str(go) if number >= 4 else None) for number in range(8)],
        reduce,
        app=cluster.app,
    )
    wait_for_run(job, 4)
    partial = job.result(timeout=0.1)
    assert (partial.complete, len(partial.outcomes), partial.value) == (False, 4, None)
    go.touch()
    assert f'reduce="{reduce}"' in str(job.result(60).error)


def test_an_item_over_its_limit_is_a_timeout_and_the_rest_goes_on(cluster: MapCluster) -> None:
    result = hive.map(skills.limited, [0.01, 60.0, 0.01, 0.02], "count", app=cluster.app).result(50)
    assert [outcome.status for outcome in result.outcomes] == ["ok", "timeout", "ok", "ok"]
    assert result.outcomes[1].error == "ran longer than 1 s"
    assert 0.9 < result.outcomes[1].seconds < 30
    assert result.value == 3


def test_an_items_own_alarm_takes_no_limit_from_the_next_and_strikes_no_other(
    cluster: MapCluster,
) -> None:
    items = [0.01, 0.01, 60.0, 0.01]
    jobs = {
        what: hive.map(skills.alarming, [what, *items], chunk=5, app=cluster.app)
        for what in skills.ALARMS
    }
    for what, job in jobs.items():
        own, *others = job.result(40).outcomes
        assert (own.status, own.attempts) == ("failed" if what == "fails" else "ok", 1), what
        assert [(outcome.status, outcome.error, outcome.attempts) for outcome in others] == [
            ("ok", None, 1),
            ("ok", None, 1),
            ("timeout", "ran longer than 1 s", 1),
            ("ok", None, 1),
        ], what


def test_a_limit_holds_although_the_item_has_set_an_alarm_itself(cluster: MapCluster) -> None:
    result = hive.map(skills.alarm_and_sleep, [0.3, 60.0, 0.1], app=cluster.app).result(40)
    assert [(outcome.status, outcome.attempts) for outcome in result.outcomes] == [
        ("ok", 1),
        ("timeout", 1),
        ("ok", 1),
    ]
    assert result.outcomes[1].seconds < 10


def test_cancel_stops_an_item_behind_one_that_used_the_alarm(
    cluster: MapCluster, tmp_path: Path
) -> None:
    for what in skills.ALARMS:
        items = [what, str(tmp_path / what)]
        job = hive.map(skills.alarm_then_file, items, chunk=2, app=cluster.app)
        wait_until((tmp_path / what).exists, what="the second item runs")
        job.cancel()
        outcomes = job.result(10).outcomes
        assert outcomes[1].status == "cancelled", (what, outcomes)


def test_an_item_may_tidy_up_when_it_is_told_to_stop(cluster: MapCluster) -> None:
    result = hive.map(skills.tidies_up, [30.0, 0.01], app=cluster.app).result(60)
    assert [(outcome.status, outcome.value) for outcome in result.outcomes] == [
        ("ok", "tidied"),
        ("ok", "finished"),
    ]


def test_one_long_item_does_not_hold_back_the_others(cluster: MapCluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    seen = []
    for outcome in hive.map(
        skills.gated,
        [(number, str(go) if number == 150 else None) for number in range(1_000)],
        app=cluster.app,
    ):
        seen.append(outcome.index)
        if len(seen) == 999:
            go.touch()
    assert seen[-1] == 150
    assert sorted(seen) == list(range(1_000))


def test_a_more_urgent_task_does_not_wait_for_a_job(cluster: MapCluster) -> None:
    job = hive.map(skills.slow_echo, range(3_000), app=cluster.app)
    wait_for_run(job, 4)
    for _ in range(5):
        assert (
            skills.square.apply_async((3,), queue=cluster.settings.hive_high_priority_queue).get(
                timeout=60
            )
            == 9
        )
    assert not job.progress().over
    job.cancel()
    assert job.result(60).complete


def test_tasks_of_the_same_queue_have_their_turn(cluster: MapCluster) -> None:
    job = hive.map(skills.slow_echo, range(1_000), app=cluster.app)
    wait_for_run(job, 4)
    assert skills.square.apply_async((3,)).get(timeout=60) == 9
    assert not job.progress().over
    job.cancel()
    assert job.result(60).complete


def test_pool_threads_run_a_job_too(tmp_path: Path) -> None:
    with map_cluster(tmp_path) as cluster:
        cluster.spore("threads", concurrency=4, options=("-P", "threads"))
        result = hive.map(skills.slow_echo, range(200), "sum", app=cluster.app).result(60)
        assert (result.value, len(by_index(iter(result.outcomes)))) == (sum(range(200)), 200)


def test_without_a_node_a_job_waits_and_starts_when_one_comes(tmp_path: Path) -> None:
    with map_cluster(tmp_path) as cluster:
        job = hive.map(skills.square, range(100), "sum", app=cluster.app)
        assert job.result(timeout=0.3).complete is False
        assert job.progress().pending == 100
        cluster.spawn("late", options=SKILLS)
        assert job.result(60).value == sum(number * number for number in range(100))


def test_a_deadline_that_passed_while_nobody_could_look_is_not_blamed_on_the_nodes(
    broker: BrokerServer,
) -> None:
    settings = Settings.load(redis_host="127.0.0.1", redis_port=broker.port)
    app = hive.install(Celery("overdue"), settings)
    job = hive.map(skills.echo, ["a", "b"], skills.longest, timeout=100, app=app)
    client = client_of(app)
    state = client.key("job", job.id, "state")
    # As after an outage of a minute: one item is done, and the deadline is long past.
    client.redis.hset(state, mapping={"deadline": client.now_ms() - 60_000, "ok": 1})
    plan = stored_plan(client, job.id)
    assert plan is not None
    watch = JobWatch(app, job.id, plan)
    for _ in range(3):
        watch.look()
    assert client.redis.hmget(state, "ended", "error") == [None, None]


def test_without_a_node_a_job_ends_at_its_deadline(tmp_path: Path) -> None:
    server = BrokerServer(tmp_path / "broker").start()
    try:
        app = hive.install(
            Celery("alone"), Settings.load(redis_host="127.0.0.1", redis_port=server.port)
        )
        jobs = [
            hive.map(skills.square, items, "sum", timeout=0.5, app=app)
            for items in (range(10), iter(range(10)))
        ]
        reduced = hive.map(skills.square, range(3), skills.longest, timeout=0.5, app=app)
        for job in jobs:
            result = job.result(15)
            assert (result.complete, result.value) == (True, 0)
            assert [outcome.status for outcome in result.outcomes] == ["timeout"] * 10
        result = reduced.result(15)
        assert (result.complete, result.value) == (True, None)
        assert "no node was there to run the reduce" in str(result.error)
    finally:
        server.kill()
