"""Tasks that are an `async def`: each process has one event loop, in which they are awaited."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord
from celery.exceptions import TimeLimitExceeded

import hive
from hive.errors import InvalidInputError, TaskExitError
from tests.integration import async_skills as skills
from tests.integration.map_cluster import MapCluster

TASKS = ("-I", "tests.integration.async_skills")
POOLS = pytest.mark.parametrize("cluster", ["prefork", "threads", "solo"], indirect=True)


@pytest.fixture(scope="module", params=["prefork"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MapCluster]:
    cluster = MapCluster(tmp_path_factory.mktemp("async"), hive_max_retries=0)
    try:
        options = (*TASKS, "--pool", request.param)
        cluster.spawn("a", concurrency=1, options=options)
        cluster.wait_online("a")
        yield cluster
    finally:
        cluster.close()


def value(task: Any, *args: Any, **kwargs: Any) -> Any:
    return task.delay(*args, **kwargs).get(timeout=30)


@POOLS
def test_a_worker_awaits_a_task(cluster: MapCluster) -> None:
    assert value(skills.wait_a_little, 0.01, says="hello") == "hello"
    assert value(skills.double, 21) == 42
    assert cluster.app.send_task("tests.by_class", ("x",)).get(timeout=30) == [
        "tests.by_class",
        "x",
    ]
    assert value(skills.under_a_decorator) == value(skills.under_cover) == "well"
    assert value(skills.pack, {"content": "tea"}) == {"content": "teatea", "day": 1}
    assert chain(skills.double.s(1), skills.double.s()).delay().get(timeout=30) == 4
    assert chord([skills.double.s(n) for n in range(5)])(skills.add_up.s()).get(timeout=30) == 20


def test_celerys_own_maps_await_it(cluster: MapCluster) -> None:
    def get(signature: Any) -> Any:
        return signature.apply_async().get(timeout=30)

    assert get(skills.double.map([1, 2])) == [2, 4]
    assert get(skills.double.starmap([(1,), (2,)])) == [2, 4]
    assert get(skills.double.chunks([(1,), (2,), (3,)], 2)) == [[2, 4], [6]]
    assert get(skills.awaits_itself.map([2])) == [3]
    assert get(skills.tenant.starmap([()])) == ["somebody"]
    assert get(skills.tenant_of_super.starmap([()])) == ["somebody"]
    with pytest.raises(LookupError, match="nothing there"):
        get(skills.fails.starmap([()]))


@POOLS
def test_it_has_its_request_and_is_the_current_task(cluster: MapCluster) -> None:
    result = skills.whoami.delay()
    name = skills.whoami.name
    assert result.get(timeout=30) == {"name": name, "id": result.id, "current": name}


@POOLS
def test_a_map_and_its_reduce_are_awaited(cluster: MapCluster) -> None:
    job = hive.map(skills.double, range(20), skills.add_up, app=cluster.app)
    assert job.result(30).value == 380
    [outcome] = hive.map(skills.fails, [1], app=cluster.app)
    assert outcome.status == "failed"
    [outcome] = hive.map("wait_a_little", [{"seconds": 0.01}], app=cluster.app)
    assert outcome.value == "well"


def test_its_arguments_are_checked(cluster: MapCluster) -> None:
    with pytest.raises(InvalidInputError, match="wait_a_little cannot use its input: seconds"):
        value(skills.wait_a_little, -1)


def test_it_runs_inside_of_its_class_call(cluster: MapCluster) -> None:
    assert value(skills.tenant) == value(skills.tenant_of_super) == "somebody"


def test_it_is_retried(cluster: MapCluster) -> None:
    assert value(skills.passes_at_last) == 2
    assert value(skills.retries_by_hand) == 1


def test_what_it_raises_is_its_result(cluster: MapCluster) -> None:
    with pytest.raises(LookupError, match="nothing there"):
        value(skills.fails)
    assert value(skills.leaves, 0) is None
    with pytest.raises(TaskExitError, match="code 3"):
        value(skills.leaves, 3)


@pytest.mark.parametrize("how", skills.WAITS)
def test_its_soft_time_limit_is_raised_where_it_waits(
    cluster: MapCluster, tmp_path: Path, how: str
) -> None:
    log = tmp_path / "log"
    assert value(skills.tidies_up, str(log), how) == "told"
    assert log.read_text() == "tidied"
    assert value(skills.others_here) == 0


def test_the_limit_of_an_item_is_raised_in_it(cluster: MapCluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    [outcome] = hive.map(skills.sleeps_long, [str(log)], app=cluster.app)
    assert (outcome.status, outcome.error) == ("timeout", "ran longer than 1 s")
    assert log.read_text() == "tidied"


def test_its_hard_time_limit_ends_its_process(cluster: MapCluster) -> None:
    with pytest.raises(TimeLimitExceeded):
        value(skills.stubborn)
    assert value(skills.double, 1) == 2


@POOLS
def test_its_process_has_one_loop(cluster: MapCluster) -> None:
    assert value(skills.loop_of) == value(skills.loop_of)


@POOLS
def test_what_it_leaves_behind_ends_with_it(cluster: MapCluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert value(skills.leaves_behind, str(log)) == "done"
    assert sorted(log.read_text().splitlines()) == ["generator ended", "task ended"]
    assert value(skills.others_here) == 0
    assert value(skills.sets_and_sees, "one") == value(skills.sets_and_sees, "two") == "nobody"


def test_it_can_map_and_wait_in_its_only_slot(cluster: MapCluster) -> None:
    assert value(skills.awaits_a_map, 10) == value(skills.blocks_on_a_map, 10) == 90


@pytest.mark.parametrize("task", [skills.maps_what_waits, skills.awaits_what_waits])
def test_its_limit_interrupts_it_while_it_works_on_its_map(
    cluster: MapCluster, tmp_path: Path, task: Any
) -> None:
    value(skills.double, 1)  # the process has its loop
    assert value(task, str(tmp_path / "log")) == "told"


@POOLS
def test_it_can_call_others(cluster: MapCluster) -> None:
    assert value(skills.asks_in_place, 4) == 8
    assert value(skills.awaits_another, 4) == 9
    assert value(skills.awaits_itself, 3) == 6
