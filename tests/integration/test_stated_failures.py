"""Failures in a task's own words (`update_state`), and results that other programs stored: whoever
asks for such a task gets an answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chord, group
from celery.exceptions import ChordError

import hive
from hive import MessageBroker, ParallelSkill
from hive.broker.link.client import client_of
from hive.errors import HiveError, TaskFailedError
from hive.settings import Settings
from hive.testing import Cluster
from tests.harness import BrokerServer

MODULE = """
from celery import Celery
from celery.exceptions import Ignore

import hive

app = Celery("stated")
hive.install(app)


@app.task(bind=True, name="stated.fails")
def fails(self, meta, state="FAILURE"):
    self.update_state(state=state, meta=meta)
    raise Ignore()


@app.task(name="stated.total")
def total(values):
    return values
"""

META = {"step": 3, "why": "the disk is full"}
FORMS: list[tuple[Any, str, Any]] = [
    (META, json.dumps(META), META),
    ("the disk is full", "the disk is full", "the disk is full"),
    (None, "The task said that it failed; it gave no reason.", None),
    ({}, "The task said that it failed; it gave no reason.", None),
    (["a", 1], '["a", 1]', ["a", 1]),
    ({"exc_type": 5, "why": "x"}, '{"exc_type": 5, "why": "x"}', {"why": "x"}),
    (7, "7", 7),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("stated")
    (folder / "stated_app.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        with hive.testing.cluster("stated_app:app") as started:
            yield started


@pytest.fixture
def app(broker: BrokerServer) -> Iterator[Celery]:
    """An application whose results this test stores itself."""
    app = hive.install(Celery("reads", set_as_current=False), Settings.load(redis_port=broker.port))
    yield app
    client_of(app).close()


def key_of(task_id: str) -> str:
    return f"celery-task-meta-{task_id}"


def store(app: Celery, task_id: str, meta: Any) -> Any:
    client_of(app).redis.set(key_of(task_id), json.dumps(meta))
    return app.AsyncResult(task_id)


@pytest.mark.parametrize(("meta", "message", "kept"), FORMS)
def test_a_meta_is_an_exception_to_whoever_asks(
    cluster: Cluster, meta: Any, message: str, kept: Any
) -> None:
    sent = cluster.app.send_task("stated.fails", (meta,))
    with pytest.raises(TaskFailedError) as caught:
        sent.get(timeout=30)
    assert (caught.value.message, caught.value.meta) == (message, kept)
    assert (sent.state, str(sent.info)) == ("FAILURE", message)
    broker = MessageBroker(cluster.app)
    cluster.wait_idle()
    status = asyncio.run(broker.get_task_status(sent.id))
    assert status is not None
    assert (status.status, status.error) == ("failed", message)
    told = json.loads(asyncio.run(ParallelSkill(broker).get_task_status(sent.id)))
    assert (told["results"][0]["status"], told["results"][0]["error"]) == ("failed", message)
    stored = json.loads(client_of(cluster.app).redis.get(key_of(sent.id)))
    assert {"exc_type", "exc_message"} <= stored["result"].keys(), "Celery alone can read it"
    assert stored["result"].items() >= (meta.items() if meta == META else set())


def test_a_task_that_failed_so_is_sent_again(cluster: Cluster) -> None:
    sent = cluster.app.send_task("stated.fails", (META,))
    with pytest.raises(TaskFailedError):
        sent.get(timeout=30)
    cluster.wait_idle()
    assert asyncio.run(MessageBroker(cluster.app).retry_task(sent.id)) is True
    with pytest.raises(TaskFailedError):
        cluster.app.AsyncResult(sent.id).get(timeout=30)


def test_groups_that_have_such_a_member_answer(cluster: Cluster) -> None:
    fails, total = (cluster.app.tasks[f"stated.{name}"] for name in ("fails", "total"))
    grouped = group(total.s(1), fails.s(META)).apply_async()
    with pytest.raises(TaskFailedError):
        grouped.get(timeout=30)
    assert [result.state for result in grouped.results] == ["SUCCESS", "FAILURE"]


def test_a_chord_that_has_such_a_member_fails(cluster: Cluster) -> None:
    fails, total = (cluster.app.tasks[f"stated.{name}"] for name in ("fails", "total"))
    ended = chord([total.s(1), fails.s(META)])(total.s()).get(timeout=30, propagate=False)
    assert isinstance(ended, ChordError)
    assert "the disk is full" in str(ended)


@pytest.mark.parametrize("state", ["PROGRESS", "MINE", "RETRY", "REVOKED"])
def test_other_states_with_a_meta_are_read(cluster: Cluster, state: str) -> None:
    sent = cluster.app.send_task("stated.fails", (META, state))
    cluster.wait_idle()
    status = asyncio.run(MessageBroker(cluster.app).get_task_status(sent.id))
    assert status is not None
    expected = {"RETRY": "pending", "REVOKED": "failed"}
    assert (sent.state, status.status) == (state, expected.get(state, "running"))
    if state in expected:
        assert isinstance(sent.info, TaskFailedError)
        assert sent.info.meta == META
    else:
        assert sent.info == META


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        ({"why": "a bare meta"}, '{"why": "a bare meta"}'),  # as an older release stored it
        (None, "The task said that it failed; it gave no reason."),
        ("a text", "a text"),
        ({"exc_type": "DiskError", "exc_message": "full"}, "DiskError: full"),
        ({"exc_type": "Gone", "exc_message": ["x"], "exc_module": "no.such"}, "Gone: x"),
        ({"exc_type": "Gone", "exc_message": ["x"], "exc_module": "json"}, "Gone: x"),
        ({"exc_type": "Gone", "exc_message": "x", "exc_module": ["json"]}, "unhashable type"),
        ({"exc_type": "dumps", "exc_message": "x", "exc_module": "json"}, "Expected an exception"),
    ],
)
def test_what_others_stored_is_read_as_failed(app: Celery, stored: Any, error: str) -> None:
    result = store(app, "theirs", {"status": "FAILURE", "result": stored})
    status = asyncio.run(MessageBroker(app).get_task_status("theirs"))
    assert status is not None
    assert status.status == "failed"
    assert str(status.error).startswith(error)
    with pytest.raises(Exception, match=r".") as caught:
        result.get(timeout=5)
    assert type(caught.value).__name__ in ("TaskFailedError", "DiskError", "Gone")


@pytest.mark.parametrize("stored", [[], 7, {"result": 1}, {"status": 5}])
def test_what_is_no_result_is_read_as_failed(app: Celery, stored: Any) -> None:
    result = store(app, "theirs", stored)
    status = asyncio.run(MessageBroker(app).get_task_status("theirs"))
    assert status is not None
    assert (status.status, status.error) == (
        "failed",
        "What is stored as its result cannot be read.",
    )
    with pytest.raises(HiveError):
        result.get(timeout=5)


@pytest.mark.parametrize("done", ["2026-11-01T10:00:00Z", "2026-11-01 10:00", "yesterday", 5, None])
def test_what_another_language_stored_is_a_record(app: Celery, done: Any) -> None:
    """It needs no more than a status and a result."""
    odd = {"name": 5, "args": "(1,)", "kwargs": "{}", "worker": {}, "retries": "2", "queue": []}
    store(app, "theirs", {"status": "SUCCESS", "result": 4, "date_done": done, **odd})
    status = asyncio.run(MessageBroker(app).get_task_status("theirs"))
    assert status is not None
    assert (status.status, status.result) == ("completed", 4)
