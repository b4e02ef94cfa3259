"""Waiting for results while the broker is away: until a timeout, until it lasts, and again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, group
from celery.exceptions import TimeoutError as ResultTimeoutError

import hive
from hive.broker.results import waiting
from hive.errors import BrokerUnreachableError
from hive.jobs.answer import job as jobs
from tests.harness import wait_until
from tests.integration import map_skills as skills
from tests.integration.map_cluster import MapCluster, map_cluster, wait_for_run

PATIENCE = 2.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "READERS_WAIT", PATIENCE)
        patch.setattr(jobs, "READERS_WAIT", PATIENCE)
        with map_cluster(tmp_path_factory.mktemp("waiting"), "one") as cluster:
            yield cluster


def test_who_waits_with_a_timeout_waits_no_longer_than_that(
    cluster: MapCluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    task = skills.gated.apply_async(((1, str(go)),))
    job = hive.map(skills.gated, [(number, str(go)) for number in range(3)], app=cluster.app)
    wait_until(lambda: task.state == "STARTED", what="it runs")
    cluster.server.kill()
    try:
        for wait, raised in (
            (lambda: task.get(timeout=0.5), ResultTimeoutError),
            (lambda: job.result(0.5), BrokerUnreachableError),
        ):
            begun = time.monotonic()
            with pytest.raises(raised):
                wait()
            assert time.monotonic() - begun < PATIENCE
    finally:
        cluster.server.start()
    go.touch()
    assert task.get(timeout=30) == 1
    assert job.result(30).complete


def test_who_waits_for_a_broker_that_stays_away_is_told_and_may_wait_again(
    cluster: MapCluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    task = skills.gated.apply_async(((1, str(go)),))
    job = hive.map(skills.gated, ((number, str(go)) for number in range(3)), app=cluster.app)
    stream, last = iter(job), chain(skills.gated.s((1, str(go))), skills.square.s()).apply_async()
    wait_until(lambda: task.state == "STARTED", what="it runs")

    async def wait_in_asyncio() -> Any:
        return await job

    cluster.server.kill()
    try:
        for wait in (
            task.get,
            last.get,
            job.result,
            lambda: next(stream),
            lambda: asyncio.run(wait_in_asyncio()),
        ):
            begun = time.monotonic()
            with pytest.raises(BrokerUnreachableError, match="does not answer"):
                wait()
            assert time.monotonic() - begun > PATIENCE
        for look in (job.progress, job.cancel, lambda: task.state):
            begun = time.monotonic()
            with pytest.raises(BrokerUnreachableError):
                look()
            assert time.monotonic() - begun < PATIENCE
    finally:
        cluster.server.start()
    go.touch()
    assert (task.get(timeout=30), last.get(timeout=30)) == (1, 1)
    result = job.result(30)
    assert (result.complete, result.error, len(result.outcomes)) == (True, None, 3)


def test_a_group_is_waited_for_through_an_outage(cluster: MapCluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    # Celery waits for a group in the thread that has sent it.
    several = group(skills.gated.s((1, str(go))), skills.square.s(2)).apply_async()
    wait_until(lambda: several.results[0].state == "STARTED", what="it runs")

    def outage() -> None:
        time.sleep(0.3)
        cluster.server.kill()
        time.sleep(PATIENCE / 2)
        go.touch()
        cluster.server.start()

    away = threading.Thread(target=outage)
    away.start()
    try:
        assert several.get(timeout=30) == [1, 4]
    finally:
        away.join(60)


def test_what_ended_while_the_broker_was_away_is_read_beyond_what_is_held(
    cluster: MapCluster,
) -> None:
    job = hive.map(skills.echo, ["x" * 100_000] * 60, app=cluster.app)
    wait_for_run(job, 60)
    outcomes = job.result(30).outcomes
    cluster.server.kill()
    with pytest.raises(BrokerUnreachableError):
        list(outcomes)
    cluster.server.start()
    assert sum(len(outcome.value) for outcome in outcomes) == 6_000_000


def test_a_parents_own_connection_error_is_raised_all_the_same(cluster: MapCluster) -> None:
    last = chain(skills.refused.s(), skills.square.s()).apply_async()
    with pytest.raises(ConnectionError, match="somewhere else"):
        last.get(timeout=30)
