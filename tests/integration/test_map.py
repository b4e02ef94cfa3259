"""hive.map on real spores: values, order, reduces, what it accepts and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, cast

import pytest
from celery import chord, group, signature
from redis import Redis

import hive
from hive.broker.link.client import client_of
from hive.errors import InvalidInputError, NoEligibleNodeError, UnknownJobError, UnknownSkillError
from hive.jobs.input.launch import send_finish
from hive.jobs.state.plan import stored_plan
from tests.harness import wait_until
from tests.integration import map_skills as skills
from tests.integration.cluster import REPOSITORY
from tests.integration.map_cluster import MapCluster, by_index, map_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapCluster]:
    with map_cluster(tmp_path_factory.mktemp("map"), "one", "two") as cluster:
        yield cluster


def test_every_item_has_its_outcome_in_its_place(cluster: MapCluster) -> None:
    result = hive.map(skills.square, range(5_000), app=cluster.app).result(60)
    assert [outcome.value for outcome in result.outcomes] == [
        number * number for number in range(5_000)
    ]
    assert {outcome.status for outcome in result.outcomes} == {"ok"}
    assert (result.value, result.error, result.complete) == (None, None, True)
    assert all(outcome.attempts == 1 and outcome.seconds >= 0 for outcome in result.outcomes)


@pytest.mark.parametrize(
    ("reduce", "value"),
    [("sum", sum(range(500))), ("count", 500), ("list", list(range(500)))],
)
def test_built_in_reduces(cluster: MapCluster, reduce: Any, value: object) -> None:
    assert hive.map(skills.echo, range(500), reduce, app=cluster.app).result(60).value == value


def test_merge_and_concat_take_the_values_in_item_order(cluster: MapCluster) -> None:
    merged = hive.map(
        skills.echo,
        [{"last": number, str(number): number} for number in range(300)],
        "merge",
        app=cluster.app,
    ).result(60)
    assert merged.value == {"last": 299, **{str(number): number for number in range(300)}}
    joined = hive.map(
        skills.echo, [[number] for number in range(300)], "concat", app=cluster.app
    ).result(60)
    assert joined.value == list(range(300))


def test_a_reduce_task_gets_the_successful_values_in_order_once(cluster: MapCluster) -> None:
    job = hive.map(skills.picky, range(20), skills.first_and_last, app=cluster.app)
    assert job.result(60).value == [0, 19, 14]


def test_a_slow_reduce_runs_once_however_often_it_is_asked_for(
    cluster: MapCluster, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    job = hive.map(skills.echo, [str(log)] * 10, skills.slow_reduce, app=cluster.app)
    wait_until(log.exists)
    client = client_of(cluster.app)
    plan = stored_plan(client, job.id)
    assert plan is not None
    send_finish(cluster.app, job.id, plan)
    assert job.result(60).value == 10
    assert log.read_text() == "x"


def test_one_bad_item_never_sinks_the_rest(cluster: MapCluster) -> None:
    outcomes = by_index(list(hive.map(skills.picky, range(200), app=cluster.app)))
    assert len(outcomes) == 200
    assert {index for index, outcome in outcomes.items() if outcome.status == "failed"} == {
        i for i in range(200) if i % 10 in (1, 2, 3)
    }
    assert outcomes[11].error == "ValueError: no 11"
    assert "of type set" in str(outcomes[12].error)
    assert outcomes[13].error == "SystemExit: 3"
    assert outcomes[14].value == date(2024, 2, 29)
    assert outcomes[15].value == 15


def test_a_bound_task_sees_its_item_and_its_place(cluster: MapCluster) -> None:
    job = hive.map(skills.whoami, ["a", "b", "c"], app=cluster.app)
    for outcome in job:
        assert outcome.value["id"] == f"{job.id}:{outcome.index}"
        assert outcome.value["task"] == skills.whoami.name
        assert outcome.value["host"] == outcome.node
        assert outcome.value["current"] == skills.whoami.name


def test_items_whose_run_nobody_notices_are_cheap(cluster: MapCluster) -> None:
    """Only the task's `run` is called, under one request that goes from item to item."""
    job = hive.map(skills.under_one_request, range(10), "list", chunk=10, app=cluster.app)
    assert job.result(60).value == list(range(1, 11))


def test_what_a_tracer_put_around_a_task_is_around_its_items(cluster: MapCluster) -> None:
    job = hive.map(skills.traced, range(3), "list", app=cluster.app)
    assert job.result(60).value == [["traced", number] for number in range(3)]


def test_a_dict_is_the_fields_of_an_input_model(cluster: MapCluster) -> None:
    result = hive.map(
        "scale",
        [3, {"value": 4}, {"value": 5, "factor": 3}, {"value": "x"}, {"wrong": 1}],
        app=cluster.app,
    ).result(60)
    assert [outcome.value for outcome in result.outcomes[:3]] == [6, 8, 15]
    assert "value" in str(result.outcomes[3].error)
    assert "unknown argument wrong" in str(result.outcomes[4].error)


@pytest.mark.parametrize("form", ["a signature", "the dict that it becomes in a message"])
def test_the_arguments_of_a_signature_stand_behind_each_item(
    cluster: MapCluster, form: str
) -> None:
    signature = skills.arguments.s(date(2024, 2, 29), seen=["first"])
    wanted = signature if form == "a signature" else dict(signature)
    result = hive.map(wanted, ["a", "b"], app=cluster.app).result(60)
    assert [outcome.value for outcome in result.outcomes] == [
        [[item, date(2024, 2, 29)], {"seen": ["first"]}] for item in "ab"
    ], "as in a group of them; and none sees what another did to its arguments"


def test_an_immutable_signature_is_called_with_its_own_arguments_alone(
    cluster: MapCluster,
) -> None:
    result = hive.map(skills.square.si(3), range(4), skills.joined.si(["only"]), app=cluster.app)
    assert [outcome.value for outcome in result.result(60).outcomes] == [9] * 4
    assert result.result(60).value == "only"


def test_an_item_of_an_input_model_goes_before_the_fields_of_the_signature(
    cluster: MapCluster,
) -> None:
    items = [3, {"value": 4}, {"value": 5, "factor": 3}]
    result = hive.map(skills.scale.s(factor=10), items, app=cluster.app).result(60)
    assert [outcome.value for outcome in result.outcomes] == [30, 40, 15]


@pytest.mark.parametrize("items", [[1, 2, 3], []])
def test_a_reduce_is_called_with_the_arguments_of_its_signature(
    cluster: MapCluster, items: list[int]
) -> None:
    reduce = skills.joined.s(separator="-")
    assert hive.map(skills.square, items, reduce, app=cluster.app).result(60).value == "-".join(
        str(item * item) for item in items
    )


def test_what_a_signature_says_of_a_whole_job_holds_for_it(cluster: MapCluster) -> None:
    signature = skills.pause.s().set(soft_time_limit=1, priority=9, requirements={"node": "two@h"})
    job = hive.map(signature, [30, 0], app=cluster.app)
    plan = stored_plan(client_of(cluster.app), job.id)
    assert plan is not None
    assert (plan.queue, plan.priority) == ("venom:tasks:background", 9)
    outcomes = job.result(60).outcomes
    assert [(outcome.status, outcome.node) for outcome in outcomes] == [
        ("timeout", "two@h"),
        ("ok", "two@h"),
    ]


def test_progress_adds_up_while_it_runs_and_at_the_end(cluster: MapCluster) -> None:
    job = hive.map(skills.slow_echo, range(60), app=cluster.app)

    def part_done() -> Any:
        seen = job.progress()
        assert (
            seen.completed + seen.failed + seen.cancelled + seen.running + seen.pending
            == seen.total
            == 60
        )
        return seen if seen.completed else None

    wait_until(part_done)
    assert job.result(60).complete
    assert job.progress() == hive.Progress(60, 60, 0, 0, 0, 0)
    assert job.progress().over


def test_a_job_is_read_from_another_process_by_its_id(cluster: MapCluster) -> None:
    job = hive.map(skills.square, range(100), "sum", app=cluster.app)
    program = (
        f"import hive; job = hive.job({job.id!r}); r = job.result(60); "
        f"print(len(r.outcomes), r.value, len(list(hive.job({job.id!r}))))"
    )
    environment = {**cluster.server.environment, "PYTHONPATH": str(REPOSITORY), "PATH": ""}
    said = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.stdout.split() == [
        "100",
        str(sum(number * number for number in range(100))),
        "100",
    ], said.stderr


def test_every_iteration_begins_with_the_first_outcome(cluster: MapCluster) -> None:
    job = hive.map(skills.square, range(50), app=cluster.app)
    assert (
        sorted(outcome.index for outcome in job)
        == sorted(outcome.index for outcome in job)
        == list(range(50))
    )


def test_an_empty_list_is_a_job_that_has_ended(cluster: MapCluster) -> None:
    job = hive.map(skills.square, [], "sum", app=cluster.app)
    assert list(job) == []
    result = job.result(5)
    assert (result.value, len(result.outcomes), result.complete, job.progress().over) == (
        0,
        0,
        True,
        True,
    )
    assert hive.map(skills.square, [], skills.longest, app=cluster.app).result(10).value == ""


def test_fixed_chunks_are_leased_whole(cluster: MapCluster) -> None:
    job = hive.map(skills.slow_echo, range(40), chunk=10, app=cluster.app)
    assert len(job.result(60).outcomes) == 40
    with cluster.server.client() as client:
        sizes = [
            int(fields[b"n"])
            for _, fields in client.xrange(cluster.key(job, "outcomes"))
            if b"n" in fields
        ]
    assert sizes == [10, 10, 10, 10]


@pytest.mark.parametrize("priority", ["high_priority", 10, 0])
def test_every_priority_runs(cluster: MapCluster, priority: Any) -> None:
    assert (
        hive.map(skills.square, range(10), "count", priority=priority, app=cluster.app)
        .result(60)
        .value
        == 10
    )


def test_requirements_choose_the_nodes(cluster: MapCluster) -> None:
    job = hive.map(skills.slow_echo, range(20), requirements={"node": "two@h"}, app=cluster.app)
    assert {outcome.node for outcome in job} == {"two@h"}


def test_a_requirement_that_no_node_meets_is_refused_at_once(cluster: MapCluster) -> None:
    for items in ([1], iter([1])):
        with pytest.raises(NoEligibleNodeError, match="GPU"):
            hive.map(skills.square, items, requirements={"gpu": True}, app=cluster.app)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"items": None}, "not NoneType"),
        ({"items": 7}, "not int"),
        ({"items": "abc"}, "not a str"),
        ({"items": b"abc"}, "not a bytes"),
        ({"items": {"a": 1}}, "not a dict"),
        ({"items": [1, {2}]}, "Item 1, of type set"),
        ({"items": [1], "reduce": "max"}, "sum, list, count, concat, merge"),
        ({"items": [1], "reduce": len}, "reduce is a task"),
        ({"items": [1], "priority": "urgent"}, "0..10"),
        ({"items": [1], "priority": 11}, "0..10"),
        ({"items": [1], "timeout": 0}, "above 0"),
        ({"items": [1], "timeout": float("inf")}, "cannot be inf"),
        ({"items": [1], "timeout": 1e300}, "at most 1,000,000,000"),
        ({"items": [1], "timeout": "5"}, "cannot be '5'"),
        ({"items": [1], "chunk": 0}, "from 1 on"),
        ({"items": [1], "requirements": {"speed": 1}}, "speed"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_sent(
    cluster: MapCluster, arguments: dict[str, Any], said: str
) -> None:
    with cluster.server.client() as client:
        before = job_ids(client)
        with pytest.raises(InvalidInputError, match=said):
            hive.map(skills.square, app=cluster.app, **arguments)
        assert job_ids(client) <= before


def job_ids(client: Redis) -> set[bytes]:
    """The jobs that have keys; those of a job that is ending may still change."""
    return {key.split(b":")[2] for key in client.scan_iter("venom:job:*")}


SQUARE, JOINED = skills.square, skills.joined


@pytest.mark.parametrize(
    ("skill", "arguments", "said"),
    [
        (SQUARE.s().set(queue="elsewhere"), {}, "queue, which means nothing"),
        (SQUARE.s().set(countdown=5, expires=9), {}, "countdown, expires, which"),
        (SQUARE.s().set(link=JOINED.s()), {}, "link, which"),
        (SQUARE.s().set(link_error=JOINED.s()), {}, "link_error, which"),
        (SQUARE.s().set(headers={"tenant": 1}), {}, "headers, which"),
        (SQUARE.s().set(soft_time_limit="5"), {}, "number of seconds above 0"),
        (SQUARE.s().set(priority=9), {"priority": 3}, "given twice, as 3 and as 9"),
        (SQUARE.s() | JOINED.s(), {}, "a chain is several"),
        (group(SQUARE.s(), SQUARE.s()), {}, "a group is several"),
        (chord([SQUARE.s(1), SQUARE.s(2)], JOINED.s()), {}, "a chord is several"),
        (SQUARE.map([1]), {}, "is several"),
        (SQUARE.s(seen={1}), {}, "cannot be written as JSON"),
        (SQUARE.s(factor=3), {}, "unexpected keyword argument 'factor'"),
        (SQUARE.s(1, 2), {}, "positional argument"),
        (skills.scale.s(wrong=3), {}, "it takes no wrong"),
        (signature("no.such.task"), {}, "import the module"),
        (SQUARE, {"reduce": SQUARE.s() | JOINED.s()}, "a chain is several"),
        (SQUARE, {"reduce": JOINED.s().set(queue="elsewhere")}, "queue, which means nothing"),
        (SQUARE, {"reduce": JOINED.s(wrong=1)}, "unexpected keyword argument 'wrong'"),
        (SQUARE, {"reduce": signature("no.such.task")}, "import the module"),
        (SQUARE.s, {}, "neither a task nor the name of a skill"),
    ],
)
def test_a_signature_that_a_job_cannot_honour_is_refused_before_anything_is_sent(
    cluster: MapCluster, skill: Any, arguments: dict[str, Any], said: str
) -> None:
    with cluster.server.client() as client:
        before = job_ids(client)
        with pytest.raises(InvalidInputError, match=said):
            hive.map(skill, [1], app=cluster.app, **arguments)
        assert job_ids(client) <= before


def test_unknown_names_are_refused(cluster: MapCluster) -> None:
    with pytest.raises(UnknownSkillError, match="scale"):
        hive.map("no such skill", [1], app=cluster.app)
    with pytest.raises(UnknownJobError, match="no-such-job"):
        hive.job("no-such-job", app=cluster.app)
    with pytest.raises(UnknownJobError, match="the id None"):
        hive.job(cast(str, None), app=cluster.app)


def test_a_job_leaves_only_keys_that_expire(cluster: MapCluster) -> None:
    job = hive.map(skills.square, (number for number in range(3_000)), "sum", app=cluster.app)
    running = client_of(cluster.app).redis
    assert job.result(60).complete
    names = [name.decode().rpartition(":")[2] for name in running.keys(f"venom:job:{job.id}:*")]
    assert sorted(names) == ["outcomes", "state", "value"]
    assert all(0 < running.ttl(cluster.key(job, name)) <= 86_400 for name in names)
    assert running.hlen("venom:pullers") == 0


def test_a_task_may_map_too(cluster: MapCluster) -> None:
    assert skills.sum_of_squares.delay(50).get(timeout=60) == sum(
        number * number for number in range(50)
    )


def test_the_broker_is_given_back_what_a_reduce_cannot_take(cluster: MapCluster) -> None:
    result = hive.map(skills.echo, ["a", "b"], "sum", app=cluster.app).result(60)
    assert result.value is None
    assert "concat" in str(result.error)
    assert [outcome.value for outcome in result.outcomes] == ["a", "b"]
    failed = hive.map(skills.echo, [1, 2, 3], skills.failing_reduce, app=cluster.app).result(60)
    assert failed.value is None
    assert "RuntimeError: cannot reduce 3" in str(failed.error)
