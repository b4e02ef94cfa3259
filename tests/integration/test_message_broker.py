"""MessageBroker against a real broker and a real spore."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from celery import Celery

import hive
from hive.broker.ledger.records import TaskStatus
from hive.broker.message_broker import MessageBroker
from hive.errors import (
    BrokerUnreachableError,
    DuplicateTaskError,
    InvalidInputError,
    UnknownSkillError,
)
from hive.settings import Settings
from tests.harness import BrokerServer, free_port, wait_until
from tests.integration import jobs
from tests.integration.cluster import Cluster

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), hive_max_retries=0)
    try:
        cluster.spawn("spore-1")
        cluster.wait_online("spore-1")
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def broker(cluster: Cluster) -> Iterator[MessageBroker]:
    broker = MessageBroker(cluster.app)
    yield broker
    run(broker.disconnect())


@pytest.fixture
def idle(broker_server: BrokerServer) -> Iterator[MessageBroker]:
    """A broker without any spore: what is sent waits."""
    with broker_server.client() as client:
        client.flushall()
    app = hive.install(
        Celery("idle"), Settings.load(redis_host="127.0.0.1", redis_port=broker_server.port)
    )
    broker = MessageBroker(app)
    yield broker
    run(broker.disconnect())


def status_of(broker: MessageBroker, task_id: str) -> TaskStatus:
    status = run(broker.get_task_status(task_id))
    assert status is not None
    return status


def wait_for_status(
    broker: MessageBroker, task_id: str, wanted: str, deadline: float = 60
) -> TaskStatus:
    def reached() -> TaskStatus | None:
        status = status_of(broker, task_id)
        return status if status.status == wanted else None

    status = wait_until(reached, deadline, f"{task_id} is {wanted}")
    assert status is not None
    return status


def test_connect_tells_whether_the_broker_answers(broker: MessageBroker) -> None:
    assert not broker.is_connected()
    assert run(broker.connect()) is True
    assert broker.is_connected()
    run(broker.disconnect())
    assert not broker.is_connected()


def test_an_absent_broker_is_no_connection_and_an_error_to_everything_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = hive.install(
        Celery("absent"), Settings.load(redis_host="127.0.0.1", redis_port=free_port())
    )
    broker = MessageBroker(app)
    assert run(broker.connect()) is False
    assert "does not answer" in caplog.text
    assert not broker.is_connected()
    for work in (
        broker.get_queue_stats,
        lambda: broker.get_task_status("x"),
        lambda: broker.broadcast_control("PING"),
    ):
        with pytest.raises(BrokerUnreachableError):
            run(work())
    with pytest.raises(BrokerUnreachableError):
        run(broker.enqueue_task("add_numbers", {"a": 1}))


def test_a_wrong_password_is_no_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = BrokerServer(tmp_path / "broker", password="right").start()
    try:
        app = hive.install(
            Celery("wrong"),
            Settings.load(redis_host="127.0.0.1", redis_port=server.port, redis_password="wrong"),
        )
        assert run(MessageBroker(app).connect()) is False
        assert "REDIS_PASSWORD" in caplog.text
    finally:
        server.kill()


def test_a_task_is_pending_then_running_then_completed_and_says_where_and_when(
    broker: MessageBroker, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    before = datetime.now(UTC)
    task_id = run(
        broker.enqueue_task(
            "wait_for", {"begun": str(begun), "go": str(go)}, priority="high_priority"
        )
    )
    wait_until(begun.exists)
    running = wait_for_status(broker, task_id, "running")
    assert (running.task_type, running.payload) == (
        "wait_for",
        {"begun": str(begun), "go": str(go)},
    )
    assert (running.priority, running.assigned_node, running.attempt) == (
        "high_priority",
        "spore-1@h",
        1,
    )
    assert running.started_at is not None
    assert running.completed_at is None
    assert run(broker.get_queue_stats())["tasks_running"] >= 1
    go.touch()
    done = wait_for_status(broker, task_id, "completed")
    assert (done.result, done.error, done.attempt, done.assigned_node) == (
        "went on",
        None,
        1,
        "spore-1@h",
    )
    assert (done.task_type, done.payload, done.priority) == (
        running.task_type,
        running.payload,
        "high_priority",
    )
    assert done.created_at is not None
    assert done.started_at is not None
    assert done.completed_at is not None
    assert abs((done.created_at - before).total_seconds()) < 5
    assert done.created_at <= done.started_at <= done.completed_at


def test_an_unknown_task_is_not_a_pending_one(idle: MessageBroker) -> None:
    assert run(idle.get_task_status("nobody")) is None
    task_id = run(idle.enqueue_task("add_numbers", {"a": 1}, priority=8))
    waiting = status_of(idle, task_id)
    assert (waiting.status, waiting.attempt, waiting.assigned_node, waiting.priority) == (
        "pending",
        0,
        None,
        8,
    )
    assert waiting.created_at is not None
    assert waiting.started_at is None


def test_a_task_that_is_not_due_yet_is_pending(idle: MessageBroker) -> None:
    result = jobs.add_numbers.apply_async((1,), {"b": 2}, countdown=60)
    waiting = status_of(idle, result.id)
    assert (waiting.status, waiting.payload) == ("pending", {"a": 1, "b": 2})
    stats = run(idle.get_queue_stats())
    assert (stats["tasks_pending"], stats["total_queued"]) == (1, 0)


def test_queue_statistics_count_what_waits_by_queue(idle: MessageBroker) -> None:
    for priority in ("high_priority", "background", "background", 9):
        run(idle.enqueue_task("add_numbers", {"a": 1}, priority=priority))
    assert run(idle.get_queue_stats()) == {
        "high_priority_queue": 1,
        "background_queue": 3,
        "total_queued": 4,
        "tasks_pending": 4,
        "tasks_running": 0,
        "tasks_completed": 0,
        "tasks_failed": 0,
        "tasks_dead": 0,
        "connected": True,
    }


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (("no_such_skill", {}, "background"), UnknownSkillError, "add_numbers"),
        (("add_numbers", {"a": "one"}, "background"), InvalidInputError, "a: "),
        (("add_numbers", {}, "background"), InvalidInputError, "Field required"),
        (("add_numbers", {"a": 1, "c": 2}, "background"), InvalidInputError, "unknown argument c"),
        (("add_numbers", [1], "background"), InvalidInputError, "not list"),
        (("needs_file", {}, "background"), InvalidInputError, "path"),
        (("needs_file", {"path": object()}, "background"), InvalidInputError, "JSON"),
        (("add_numbers", {"a": 1}, 11), InvalidInputError, "0..10"),
        (("add_numbers", {"a": 1}, "urgent"), InvalidInputError, "high_priority"),
        (("add_numbers", {"a": 1}, True), InvalidInputError, "0..10"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_sent(
    idle: MessageBroker, wrong: tuple[str, Any, Any], error: type[Exception], words: str
) -> None:
    task_type, payload, priority = wrong
    with pytest.raises(error, match=words):
        run(idle.enqueue_task(task_type, payload, priority))
    assert run(idle.get_queue_stats())["tasks_pending"] == 0


def test_a_given_id_is_one_task_however_often_it_is_sent(
    broker: MessageBroker, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    payload = {"begun": str(begun), "go": str(go)}
    go.touch()

    async def at_once() -> list[str]:
        return await asyncio.gather(
            *(broker.enqueue_task("wait_for", payload, task_id="only-one") for _ in range(5))
        )

    assert run(at_once()) == ["only-one"] * 5
    wait_for_status(broker, "only-one", "completed")
    assert run(broker.enqueue_task("wait_for", payload, task_id="only-one")) == "only-one"
    with pytest.raises(DuplicateTaskError):
        run(broker.enqueue_task("wait_for", {**payload, "go": "elsewhere"}, task_id="only-one"))
    with pytest.raises(DuplicateTaskError):
        run(broker.enqueue_task("add_numbers", {"a": 1}, task_id="only-one"))
    assert run(broker.get_queue_stats())["tasks_pending"] == 0
    assert begun.read_text() == "x"


def test_a_failed_task_tells_why_and_runs_again_once_when_retried(
    broker: MessageBroker, tmp_path: Path
) -> None:
    wanted = tmp_path / "wanted"
    task_id = run(broker.enqueue_task("needs_file", {"path": str(wanted)}, priority=7))
    failed = wait_for_status(broker, task_id, "failed")
    assert failed.error is not None
    assert failed.error.startswith("FileNotFoundError: ")
    assert failed.result is None
    wanted.touch()

    def completed() -> int:
        """How many tasks have completed, once none runs: those of earlier tests may still be about
        to be acknowledged.
        """
        return int(
            wait_until(
                lambda: (stats := run(broker.get_queue_stats()))["tasks_running"] == 0 and stats
            )["tasks_completed"]
        )

    before = completed()

    async def at_once() -> list[bool]:
        return await asyncio.gather(*(broker.retry_task(task_id) for _ in range(4)))

    assert any(run(at_once()))
    done = wait_for_status(broker, task_id, "completed")
    assert (done.result, done.payload, done.priority) == ("found", {"path": str(wanted)}, 7)
    assert completed() == before + 1
    assert run(broker.retry_task(task_id)) is False
    assert run(broker.retry_task("nobody")) is False


@pytest.mark.parametrize("state", ["running", "completed"])
def test_a_retry_that_comes_behind_another_sends_nothing(
    idle: MessageBroker, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Two callers see the failure; before the second sends, the first one's run has begun, or is
    over.
    """
    records = idle.records
    task_id = run(idle.enqueue_task("add_numbers", {"a": 1}))
    records.store(task_id, "failed", assigned_node="a@h", result=None, error="It broke.")
    seen = records.read(task_id)
    assert seen is not None
    assert seen.status == "failed"
    records.store(task_id, state, assigned_node="a@h", result=3, error=None)
    monkeypatch.setattr(records, "read", lambda _: seen)
    assert run(idle.retry_task(task_id)) is False
    assert run(idle.get_queue_stats())["tasks_pending"] == 1


def test_a_waiting_task_is_not_retried(idle: MessageBroker) -> None:
    task_id = run(idle.enqueue_task("add_numbers", {"a": 1}))
    assert run(idle.retry_task(task_id)) is False
    assert run(idle.get_queue_stats())["tasks_pending"] == 1


def test_an_executor_outside_celery_states_how_far_a_task_is(idle: MessageBroker) -> None:
    task_id = run(idle.enqueue_task("add_numbers", {"a": 1}))
    assert run(idle.update_task_status(task_id, "running", assigned_node="elsewhere")) is True
    running = status_of(idle, task_id)
    assert (running.status, running.assigned_node, running.task_type) == (
        "running",
        "elsewhere",
        "add_numbers",
    )
    assert running.started_at is not None
    assert run(idle.update_task_status(task_id, "failed", error="no luck")) is True
    failed = status_of(idle, task_id)
    assert (failed.status, failed.error, failed.assigned_node) == ("failed", "no luck", "elsewhere")
    assert run(idle.update_task_status(task_id, "completed", result={"sum": 1})) is True
    done = status_of(idle, task_id)
    assert (done.status, done.result, done.started_at) == (
        "completed",
        {"sum": 1},
        running.started_at,
    )
    assert run(idle.update_task_status(task_id, "running")) is False
    assert status_of(idle, task_id).status == "completed"
    with pytest.raises(InvalidInputError, match="dead"):
        run(idle.update_task_status(task_id, "dead"))


def test_zombies_are_those_that_the_watchdog_wrote_down(idle: MessageBroker) -> None:
    assert run(idle.detect_zombie_tasks()) == []
    began = datetime.now() - timedelta(minutes=5)  # noqa: DTZ005 - as users subtract it
    now = time.time()
    rows = {
        "b": {"node": "spore-1@h", "reason": "lost", "at": now, "started": began.timestamp()},
        "a": {"node": "spore-2@h", "reason": "long", "at": now},  # as releases before wrote it
        "c": {},
    }
    key = idle.client.key("zombies")
    written = {task_id: json.dumps(row) for task_id, row in rows.items()}
    idle.client.redis.hset(key, mapping=written | {"d": "no JSON"})
    zombies = run(idle.detect_zombie_tasks())
    assert zombies == json.loads(json.dumps(zombies)) == ["a", "b", "c", "d"]
    assert [str(zombie) for zombie in zombies] == [zombie.task_id for zombie in zombies]
    _, lost, *_ = zombies
    assert (lost.node, lost.reason, lost.started_at) == ("spore-1@h", "lost", began)
    assert (copy.deepcopy(lost), copy.deepcopy(lost).node) == ("b", "spore-1@h")
    ages = [datetime.now() - zombie.started_at for zombie in zombies]  # noqa: DTZ005
    assert [round(age.total_seconds(), -1) for age in ages] == [0, 300, 0, 0]
    assert run(idle.retry_task(lost)) is False, "it is not known, and went back long ago"


def test_ping_is_answered_by_every_node_and_an_unknown_command_with_an_error(
    broker: MessageBroker,
) -> None:
    assert run(broker.broadcast_control("PING")) == {"spore-1@h": {"ok": "pong"}}
    replies = run(broker.broadcast_control("UPDATE_SYSTEM", {"version": "1.2.0"}))
    assert "UPDATE_SYSTEM" in replies["spore-1@h"]["error"]
    assert "PING" in replies["spore-1@h"]["error"]
    with pytest.raises(InvalidInputError):
        run(broker.broadcast_control("PING", {"x": object()}))


def test_calls_of_many_threads_at_once_each_get_their_own_replies(broker: MessageBroker) -> None:
    def call(number: int) -> Any:
        return broker._caller.call("hive", {"command": f"C{number}"}, ["spore-1@h"], timeout=5)

    with ThreadPoolExecutor(8) as pool:
        for number, replies in enumerate(pool.map(call, range(60))):
            assert f"'C{number}'" in replies["spore-1@h"]["error"]


def test_a_broadcast_works_after_the_connection_was_lost(
    cluster: Cluster, broker: MessageBroker
) -> None:
    assert run(broker.broadcast_control("PING"))
    with cluster.server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert wait_until(lambda: run(broker.broadcast_control("PING"))) == {
        "spore-1@h": {"ok": "pong"}
    }


def test_a_broadcast_works_in_a_forked_process_and_still_in_its_parent(
    broker: MessageBroker,
) -> None:
    assert run(broker.broadcast_control("PING"))
    child = os.fork()
    if child == 0:
        answered = False
        try:
            answered = run(broker.broadcast_control("PING")) == {"spore-1@h": {"ok": "pong"}}
        finally:
            os._exit(0 if answered else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run(broker.broadcast_control("PING")) == {"spore-1@h": {"ok": "pong"}}


def test_a_subscriber_hears_every_command_from_then_on(
    cluster: Cluster, broker: MessageBroker
) -> None:
    async def scene() -> list[dict[str, Any]]:
        heard = []
        async with await broker.subscribe_broadcast() as subscription:
            cluster.app.control.ping(timeout=0.1)
            for number in range(3):
                await broker.broadcast_control("PING", {"number": number})
            async with asyncio.timeout(10):
                async for command in subscription.listen():
                    heard.append(command)
                    if len(heard) == 3:
                        break
        return heard

    heard = run(scene())
    assert [(command["command"], command["arguments"]) for command in heard] == [
        ("PING", {"number": number}) for number in range(3)
    ]
    for command in heard:  # as redis-py's messages are read
        assert (command["type"], command["channel"]) == ("message", "venom:broadcast")
        names = ("command", "arguments", "destination", "ticket")
        assert json.loads(command["data"]) == {name: command[name] for name in names}


def test_a_subscriber_hears_again_after_its_connection_was_lost(
    cluster: Cluster, broker: MessageBroker
) -> None:
    async def scene() -> dict[str, Any]:
        async with await broker.subscribe_broadcast() as subscription, asyncio.timeout(20):
            with cluster.server.client() as client:
                assert client.client_kill_filter(_type="pubsub") >= 1
            listener = asyncio.create_task(anext(subscription.listen()))
            while not listener.done():
                await broker.broadcast_control("PING", wait_timeout=0.2)
            return await listener

    assert run(scene())["command"] == "PING"
    cluster.wait_online("spore-1")
    assert wait_until(lambda: run(broker.broadcast_control("PING"))) == {
        "spore-1@h": {"ok": "pong"}
    }


def test_a_node_that_does_not_answer_in_time_is_missing_from_the_replies(
    cluster: Cluster, broker: MessageBroker
) -> None:
    frozen = cluster.spawn("spore-2")
    cluster.wait_online("spore-2")
    wait_until(lambda: len(run(broker.broadcast_control("PING"))) == 2)
    frozen.kill(signal.SIGSTOP)
    began = time.monotonic()
    assert run(broker.broadcast_control("PING", wait_timeout=2)) == {"spore-1@h": {"ok": "pong"}}
    assert time.monotonic() - began >= 2
    frozen.kill(signal.SIGCONT)
    frozen.stop()


def test_a_closed_subscription_ends_its_listeners(broker: MessageBroker) -> None:
    async def scene() -> list[Any]:
        subscription = await broker.subscribe_broadcast()

        async def listen() -> list[Any]:
            return [command async for command in subscription.listen()]

        listener = asyncio.create_task(listen())
        await asyncio.sleep(0)
        await subscription.close()
        async with asyncio.timeout(5):
            return await listener

    assert run(scene()) == []


def test_a_task_that_kills_its_process_is_dead_and_can_be_sent_again(broker: MessageBroker) -> None:
    task_id = run(broker.enqueue_task("poison", {}))
    dead = wait_for_status(broker, task_id, "dead", 40)
    assert dead.attempt == 1
    assert dead.error
    assert dead.completed_at is not None
    assert run(broker.get_queue_stats())["tasks_dead"] == 1
    assert run(broker.retry_task(task_id)) is True
    assert run(broker.get_queue_stats())["tasks_dead"] == 0
    assert status_of(broker, task_id).status in ("pending", "running")
