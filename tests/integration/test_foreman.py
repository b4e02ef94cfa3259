"""The Foreman class against a real broker and real spores."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import hive.testing
from hive.broker.message_broker import MessageBroker
from hive.errors import InvalidInputError, UnknownTaskError
from hive.foreman.foreman import Foreman
from hive.testing import Cluster
from tests.harness import wait_until
from tests.integration import jobs
from tests.integration.jobs_app import JOBS

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with hive.testing.cluster(JOBS, concurrency=1, watch=False) as started:
        started.start("spore-2", environment={"HIVE_NODE_LABELS": "zone=b"})
        yield started


@pytest.fixture
def broker(cluster: Cluster) -> MessageBroker:
    return MessageBroker(cluster.app)


@pytest.fixture
def foreman(broker: MessageBroker) -> Foreman:
    return Foreman(broker)


def node_of(broker: MessageBroker, task_id: str) -> str | None:
    status = run(broker.get_task_status(task_id))
    return (
        status.assigned_node
        if status is not None and status.status in ("running", "completed")
        else None
    )


def send_where_nobody_looks() -> str:
    """A task in a queue that no spore reads: it moves only when it is assigned."""
    return str(jobs.add_numbers.apply_async((1,), queue="nobody").id)


def test_the_best_node_satisfies_what_is_required(foreman: Foreman) -> None:
    wait_until(lambda: foreman.select_best_node() in ("spore-1@test", "spore-2@test"))
    assert wait_until(lambda: foreman.select_best_node({"labels": {"zone": "b"}})) == "spore-2@test"
    assert foreman.select_best_node({"gpu": True, "labels": {"zone": "nowhere"}}) is None
    with pytest.raises(InvalidInputError, match="Known"):
        foreman.select_best_node({"gpus": True})


def test_the_cluster_status_tells_of_every_node(foreman: Foreman) -> None:
    status = foreman.get_cluster_status()
    assert (status["total_nodes"], status["online_nodes"], status["offline_nodes"]) == (2, 2, 0)
    assert [node["node_id"] for node in status["nodes"]] == ["spore-1@test", "spore-2@test"]
    assert all(
        node["is_online"] and "add_numbers" in node["capabilities"] for node in status["nodes"]
    )


def test_an_assigned_task_runs_on_the_node_it_was_assigned_to(
    broker: MessageBroker, foreman: Foreman
) -> None:
    for wanted in ({"labels": {"zone": "b"}}, {"node": "spore-1@test"}):
        task_id = send_where_nobody_looks()
        node = wait_until(lambda: run(foreman.assign_task(task_id, wanted)))  # noqa: B023
        assert node == ("spore-2@test" if "labels" in wanted else "spore-1@test")
        assert wait_until(lambda: node_of(broker, task_id)) == node  # noqa: B023
        status = broker.get_task_status
        is_completed = lambda: run(status(task_id)).status == "completed"  # noqa: B023
        wait_until(is_completed)
        assert run(foreman.assign_task(task_id)) == node


def test_a_task_stays_where_it_is_when_no_node_is_fit_for_it(
    broker: MessageBroker, foreman: Foreman
) -> None:
    task_id = send_where_nobody_looks()
    assert run(foreman.assign_task(task_id, {"labels": {"zone": "nowhere"}})) is None
    status = run(broker.get_task_status(task_id))
    assert status is not None
    assert (status.status, status.assigned_node) == ("pending", None)
    with pytest.raises(UnknownTaskError):
        run(foreman.assign_task("nobody"))


def test_a_running_task_stays_with_the_node_that_runs_it(
    broker: MessageBroker, foreman: Foreman, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    task_id = run(broker.enqueue_task("wait_for", {"begun": str(begun), "go": str(go)}))
    wait_until(begun.exists)
    node = wait_until(lambda: node_of(broker, task_id))
    assert run(foreman.assign_task(task_id)) == node
    go.touch()


def test_a_started_foreman_brings_back_what_a_dead_spore_held(
    cluster: Cluster, broker: MessageBroker, foreman: Foreman, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    cluster.start("spore-3")
    task_id = str(jobs.wait_for.apply_async((str(begun), str(go)), queue="nobody").id)
    assert (
        wait_until(lambda: run(foreman.assign_task(task_id, {"node": "spore-3@test"})))
        == "spore-3@test"
    )
    wait_until(begun.exists)

    async def scene() -> None:
        await foreman.start()
        await foreman.start()
        try:
            cluster.kill("spore-3")
            await asyncio.to_thread(
                wait_until, lambda: broker.records.locate(task_id).name == "queued", 20
            )  # type: ignore[union-attr]
        finally:
            await foreman.stop()

    run(scene())
    assert wait_until(lambda: run(foreman.assign_task(task_id))) in ("spore-1@test", "spore-2@test")
    wait_until(lambda: begun.read_text() == "xx", what="it runs again")
    go.touch()
    status = wait_until(
        lambda: (
            (found := run(broker.get_task_status(task_id)))
            and found.status == "completed"
            and found
        )
    )
    assert status.attempt == 2
