"""An item of a job, and a reduce, run as their task does for a message: its class's `__call__` and
hooks, the signals of tasks, its time limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hive
from hive.jobs.state.plan import MARGIN
from tests.harness import wait_until
from tests.integration import noticed_skills as skills
from tests.integration.map_cluster import MapCluster, map_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapCluster]:
    with map_cluster(tmp_path_factory.mktemp("map"), hive_task_timeout=2) as cluster:
        cluster.spawn("one", options=("-I", "tests.integration.noticed_skills"))
        cluster.wait_online("one")
        yield cluster


def test_the_call_of_a_tasks_class_surrounds_each_item(cluster: MapCluster) -> None:
    result = hive.map(skills.finds_it_open, range(3), app=cluster.app).result(30)
    assert [outcome.value for outcome in result.outcomes] == ["0 open", "1 open", "2 open"]


def test_a_call_that_uses_celerys_keeps_the_items_own_request(cluster: MapCluster) -> None:
    job = hive.map(skills.finds_it_open_by_celery, range(3), app=cluster.app)
    assert [outcome.value for outcome in job.result(30).outcomes] == [
        ["open", f"{job.id}:{index}", [index]] for index in range(3)
    ]


def test_the_call_of_a_tasks_class_surrounds_a_reduce(cluster: MapCluster) -> None:
    job = hive.map(skills.finds_it_open, range(3), skills.reduces_in_the_open, app=cluster.app)
    assert job.result(30).value == "3 open"


@pytest.mark.parametrize("does", ["return", "fail", "retry"])
@pytest.mark.parametrize("task", [skills.hooked, skills.heard], ids=["hooks", "signals"])
def test_hooks_and_signals_tell_of_an_item_what_they_tell_of_a_task(
    cluster: MapCluster, tmp_path: Path, task: Any, does: str
) -> None:
    item = {"log": str(tmp_path / "item"), "do": does}
    [outcome] = hive.map(task, [item], app=cluster.app).result(30).outcomes
    assert outcome.status == ("failed" if does == "fail" else "ok")
    told = said(tmp_path / "item")
    assert len(told) >= 4
    message = {"log": str(tmp_path / "message"), "do": does}
    task.apply_async((message,)).get(timeout=30, propagate=False)
    wait_until(lambda: said(tmp_path / "message") == told, what=f"a message is told as {told}")


def test_an_item_over_its_limit_is_told_as_a_failure(cluster: MapCluster, tmp_path: Path) -> None:
    item = {"log": str(tmp_path / "item"), "do": "sleep"}
    [outcome] = hive.map(skills.heard, [item], app=cluster.app).result(30).outcomes
    assert outcome.status == "timeout"
    assert [what for what, *_ in said(tmp_path / "item")] == [
        "prerun",
        "run",
        "failure",
        "postrun",
    ]


def said(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_reduce_may_run_as_long_as_its_own_task(cluster: MapCluster) -> None:
    """HIVE_TASK_TIMEOUT is two seconds here."""
    job = hive.map(skills.finds_it_open, range(3), skills.long_reduce, app=cluster.app)
    result = job.result(30)
    assert (result.value, result.error) == (3, None)


@pytest.mark.parametrize(
    "reduce",
    [skills.short_reduce, skills.long_reduce.s().set(soft_time_limit=1)],
    ids=["of its task", "of its signature"],
)
def test_a_reduce_over_its_limit_ends_with_an_error(cluster: MapCluster, reduce: Any) -> None:
    result = hive.map(skills.finds_it_open, range(3), reduce, app=cluster.app).result(30)
    assert result.value is None
    assert "ran longer than 1 s" in str(result.error)
    assert len(result.outcomes) == 3


def test_a_reduce_that_cannot_be_interrupted_is_killed_soon_after_its_own_hard_limit(
    cluster: MapCluster,
) -> None:
    reduce = skills.tells_limits.s().set(soft_time_limit=40, time_limit=50)
    hard, soft = hive.map(skills.finds_it_open, [1], reduce, app=cluster.app).result(30).value
    assert (soft, hard) == (40 + MARGIN, 50 + MARGIN)
