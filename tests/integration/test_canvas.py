"""An installed application's own tasks and all of Celery's canvas, on real workers of it."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import (
    ChordError,
    NotRegistered,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
)
from celery.result import AsyncResult

from hive.broker.link.client import client_of
from hive.broker.nodes.table import NodeTable
from hive.errors import NoEligibleNodeError
from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.nodes import BACKGROUND, HIGH

APPLICATION = """
import time

from celery import Celery
from celery.exceptions import Reject, SoftTimeLimitExceeded
from kombu import Queue

import hive
from hive.broker.link.client import client_of

app = Celery("canvas_app")
app.conf.task_queues = [Queue("video"), Queue("threads")]
app.conf.task_routes = {"canvas_app.film": {"queue": "video", "priority": 9}}
hive.install(app)


def redis():
    return client_of(app).redis


@app.task
def add(x, y):
    return x + y


@app.task
def double(x):
    return 2 * x


@app.task
def total(values):
    return sum(values)


@app.task
def fail(message):
    raise ValueError(message)


@app.task
def note(name, *parents):
    redis().rpush("noted", name)
    return name


@app.task(bind=True)
def eta(self):
    return self.request.eta


@app.task(ignore_result=True)
def ignored(name):
    redis().rpush("noted", name)
    return "not stored"


@app.task
def hold(name):
    redis().rpush("held", name)
    redis().blpop("release " + name, 14)
    return name


@app.task(acks_late=False)
def hold_acknowledged_early(name):
    return hold(name)


@app.task(bind=True, max_retries=3)
def flaky(self, failures):
    if self.request.retries < failures:
        raise self.retry(countdown=0.05, exc=ValueError("flaky"))
    return self.request.retries


@app.task(autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
def hopeless():
    redis().rpush("noted", "tried")
    raise ValueError("hopeless")


@app.task(bind=True)
def factorial(self, n, product=1):
    if n < 2:
        return product
    raise self.replace(factorial.s(n - 1, n * product))


@app.task(soft_time_limit=0.3)
def softly_limited(tidy):
    try:
        time.sleep(10)
    except SoftTimeLimitExceeded:
        if not tidy:
            raise
        return "tidied up"


@app.task(time_limit=0.3)
def hardly_limited():
    redis().rpush("noted", "began")
    time.sleep(10)


@app.task(bind=True)
def rejected(self, requeue):
    redis().rpush("noted", "rejected")
    raise Reject("no", requeue=requeue)


@app.task(bind=True)
def film(self):
    delivery = self.request.delivery_info
    return [self.request.hive["node"], delivery["routing_key"], delivery["priority"]]


@app.task
def film_elsewhere():
    return film.apply_async(countdown=0).id
"""


class Canvas:
    """The application, one worker of 2 processes, and one of 2 threads once it is asked for."""

    def __init__(self, directory: Path, server: BrokerServer) -> None:
        self.directory = directory
        self.server = server
        (directory / "canvas_app.py").write_text(APPLICATION)
        self.workers: list[WorkerProcess] = []
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            patch.syspath_prepend(str(directory))
            self.tasks: Any = importlib.import_module("canvas_app")
        self.app: Celery = self.tasks.app
        self.client = client_of(self.app)

    def start(self, name: str, *options: str) -> None:
        options = (*options, "--without-gossip", "--without-mingle")
        self.workers.append(
            WorkerProcess.celery(
                self.directory, name, app="canvas_app", env=self.server.environment, options=options
            )
        )
        table = NodeTable(self.client)
        wait_until(
            lambda: (node := table.read().get(f"{name}@h")) and node.online,
            30,
            self.workers[-1].output(),
        )

    def noted(self) -> list[str]:
        return [raw.decode() for raw in self.client.redis.lrange("noted", 0, -1)]

    def held(self) -> int:
        return int(self.client.redis.hlen("venom:reserved:canvas@h"))

    def waiting(self, task_id: str) -> bool:
        """Accepted, unfinished, and with nobody."""
        publish_id = self.client.redis.hget("venom:ids", task_id)
        return publish_id is not None and not self.client.redis.hexists(
            "venom:reserved:canvas@h", publish_id
        )

    @contextmanager
    def all_slots_taken(self, task: str = "hold") -> Iterator[None]:
        """Both processes are busy; `release` frees one, and leaving frees what is left."""
        self.client.redis.delete("held")
        running = [getattr(self.tasks, task).delay(name) for name in ("one", "two")]
        wait_until(lambda: self.client.redis.llen("held") == 2, what="both slots are taken")
        try:
            yield
        finally:
            self.release("one", "two")
            assert [result.get(timeout=60) for result in running] == ["one", "two"]
            self.client.redis.delete("release one", "release two")

    def release(self, *names: str) -> None:
        for name in names:
            self.client.redis.rpush(f"release {name}", "")

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()
        for router in self.app.conf.task_routes:
            router.close()
        self.app.backend.result_consumer.stop()
        self.app.close()
        self.client.close()
        del sys.modules["canvas_app"]


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, broker_server: BrokerServer
) -> Iterator[Canvas]:
    with broker_server.client() as client:
        client.flushall()
    canvas = Canvas(tmp_path_factory.mktemp("canvas"), broker_server)
    try:
        canvas.start("canvas", "-Q", f"{HIGH},{BACKGROUND},video")
        yield canvas
    finally:
        canvas.close()


@pytest.fixture
def canvas(running: Canvas) -> Iterator[Canvas]:
    """The running application; whatever a test did, no message of it is left."""
    running.client.redis.delete("noted")
    yield running
    wait_until(lambda: running.client.redis.hlen("venom:entries") == 0, what="nothing is left")
    counted = running.client.redis.hmget("venom:counters", "accepted", "done")
    assert counted[0] == counted[1]


@pytest.fixture
def tasks(canvas: Canvas) -> Any:
    return canvas.tasks


def get(result: Any) -> Any:
    return result.get(timeout=60)


def sent(result: AsyncResult[Any]) -> dict[str, Any]:
    """What the backend stored beside the result."""
    meta: dict[str, Any] = result.backend.get_task_meta(result.id)["hive"]
    return meta


# -- canvas


def test_a_chain(tasks: Any) -> None:
    assert get(chain(tasks.add.s(1, 2), tasks.add.s(3), tasks.double.s())()) == 12


def test_a_group(tasks: Any) -> None:
    assert get(group(tasks.add.s(n, n) for n in range(10))()) == [2 * n for n in range(10)]


def test_a_chord_in_a_chain_and_a_chord_of_chords(tasks: Any) -> None:
    inner = chord([tasks.add.s(n, n) for n in range(3)], tasks.total.s())
    assert get(chord([inner, tasks.double.s(1)], tasks.total.s())()) == 8
    assert (
        get(
            chain(
                tasks.add.s(1, 1),
                group(tasks.add.s(1), tasks.add.s(2)),
                tasks.total.s(),
                tasks.double.s(),
            )()
        )
        == 14
    )


def test_chunks_map_and_starmap(tasks: Any) -> None:
    assert get(tasks.add.chunks([(n, n) for n in range(5)], 2)()) == [[0, 2], [4, 6], [8]]
    assert get(tasks.double.map([1, 2, 3]).apply_async()) == [2, 4, 6]
    assert get(tasks.add.starmap([(1, 2), (3, 4)]).apply_async()) == [3, 7]


def test_a_task_replaced_by_another(tasks: Any) -> None:
    assert get(tasks.factorial.delay(5)) == 120
    assert get(chord([tasks.factorial.s(3), tasks.factorial.s(4)], tasks.total.s())()) == 30


def test_links_and_error_links(canvas: Canvas) -> None:
    tasks = canvas.tasks
    get(
        tasks.add.apply_async(
            (1, 2), link=tasks.note.si("after success"), link_error=tasks.note.si("never")
        )
    )
    with pytest.raises(ValueError, match="broken"):
        get(
            tasks.fail.apply_async(
                ("broken",), link=tasks.note.si("never"), link_error=tasks.note.si("after failure")
            )
        )
    wait_until(lambda: len(canvas.noted()) == 2)
    assert sorted(canvas.noted()) == ["after failure", "after success"]


def test_a_member_that_fails_fails_its_chord(tasks: Any) -> None:
    result = chord([tasks.add.s(1, 1), tasks.fail.s("broken")], tasks.total.s())()
    error = result.get(timeout=20, propagate=False)
    assert isinstance(error, ChordError)
    assert "broken" in str(error)


# -- outcomes


def test_a_result_tells_who_ran_the_task_and_when(tasks: Any) -> None:
    result = tasks.add.apply_async((1, 2), priority=7)
    assert get(result) == 3
    told = sent(result)
    assert (result.status, told["node"], told["attempt"], told["priority"]) == (
        "SUCCESS",
        "canvas@h",
        1,
        7,
    )
    assert told["created"] <= told["started"] + 1 <= time.time() + 2
    assert (result.name, result.args, result.worker) == ("canvas_app.add", [1, 2], "canvas@h")


def test_a_task_that_raises_fails_once(canvas: Canvas) -> None:
    failed = int(canvas.client.redis.hget("venom:counters", "failed") or 0)
    result = canvas.tasks.fail.delay("broken")
    with pytest.raises(ValueError, match="broken"):
        get(result)
    assert result.status == "FAILURE"
    assert "ValueError: broken" in result.traceback
    wait_until(lambda: int(canvas.client.redis.hget("venom:counters", "failed") or 0) == failed + 1)


def test_a_task_that_nobody_knows_fails(canvas: Canvas) -> None:
    with pytest.raises(NotRegistered, match="nobodys"):
        get(canvas.app.send_task("nobodys.task"))


def test_a_task_that_retries_runs_again_under_its_id(tasks: Any) -> None:
    result = tasks.flaky.delay(2)
    assert get(result) == 2
    assert sent(result)["attempt"] == 3


def test_retries_end(canvas: Canvas) -> None:
    with pytest.raises(ValueError, match="flaky"):
        get(canvas.tasks.flaky.delay(9))
    with pytest.raises(ValueError, match="hopeless"):
        get(canvas.tasks.hopeless.delay())
    assert canvas.noted() == ["tried", "tried"]


def test_an_ignored_result_is_not_stored(canvas: Canvas) -> None:
    results = [
        canvas.tasks.ignored.delay("by the task"),
        canvas.tasks.note.apply_async(("by the call",), ignore_result=True),
    ]
    wait_until(lambda: canvas.client.redis.hlen("venom:entries") == 0)
    assert sorted(canvas.noted()) == ["by the call", "by the task"]
    assert not canvas.client.redis.exists(*(f"celery-task-meta-{result.id}" for result in results))


def test_a_soft_time_limit_lets_a_task_tidy_up(tasks: Any) -> None:
    assert get(tasks.softly_limited.delay(True)) == "tidied up"
    with pytest.raises(SoftTimeLimitExceeded):
        get(tasks.softly_limited.delay(False))


def test_a_hard_time_limit_ends_a_task_for_good(canvas: Canvas) -> None:
    """It is a failure of the task, not a death of its process that would run it again."""
    # The soft one is lowered to it.
    with pytest.raises((TimeLimitExceeded, SoftTimeLimitExceeded)):
        get(canvas.tasks.hardly_limited.delay())
    with pytest.raises((TimeLimitExceeded, SoftTimeLimitExceeded)):
        get(canvas.tasks.hold.apply_async(("endless",), time_limit=0.3))
    assert get(canvas.tasks.add.delay(1, 1)) == 2
    assert canvas.noted() == ["began"]


def test_a_rejected_task_ends_and_one_to_be_requeued_becomes_a_dead_letter(canvas: Canvas) -> None:
    canvas.tasks.rejected.delay(False)
    wait_until(
        lambda: canvas.noted() == ["rejected"] and canvas.client.redis.hlen("venom:entries") == 0
    )
    result = canvas.tasks.rejected.delay(True)
    wait_until(lambda: canvas.client.redis.hlen("venom:dead") == 1)
    assert len(canvas.noted()) == 1 + 4, "HIVE_MAX_RETRIES + 1 deliveries"
    publish_id = canvas.client.redis.hget("venom:ids", result.id)
    # There is no command for it yet: the test buries it for good.
    canvas.client.redis.hdel("venom:dead", publish_id)
    canvas.client.redis.hdel("venom:entries", publish_id)
    canvas.client.redis.srem("venom:untold", publish_id)
    canvas.client.redis.hincrby("venom:counters", "done", 1)


# -- waiting


def test_messages_are_served_high_first_and_by_priority(canvas: Canvas) -> None:
    with canvas.all_slots_taken():
        for priority in (0, 10, None, 3, 6):
            canvas.tasks.note.apply_async((f"background {priority}",), priority=priority)
        canvas.tasks.note.apply_async(("high 0",), queue=HIGH, priority=0)
        canvas.tasks.note.apply_async(("high 1",), queue=HIGH, priority=1)
        canvas.release("one")
        wait_until(lambda: len(canvas.noted()) == 7)
    expected = [
        "high 1",
        "high 0",
        "background 10",
        "background 6",
        "background None",
        "background 3",
        "background 0",
    ]
    assert canvas.noted() == expected


@pytest.mark.parametrize("task", ["hold", "hold_acknowledged_early"])
def test_a_node_never_takes_more_than_its_slots_even_of_early_acknowledged_tasks(
    canvas: Canvas, task: str
) -> None:
    with canvas.all_slots_taken(task):
        result = canvas.tasks.note.delay("third")
        beat = canvas.client.redis.zrange("venom:beats", 0, -1, withscores=True)
        wait_until(
            lambda: canvas.client.redis.zrange("venom:beats", 0, -1, withscores=True) != beat,
            what="the node has beaten again",
        )
        assert canvas.waiting(result.id)
        assert canvas.held() == 2
        assert canvas.noted() == []
    assert get(result) == "third"


def test_states_are_told_while_a_task_waits_and_runs(canvas: Canvas) -> None:
    with canvas.all_slots_taken():
        result = canvas.tasks.hold.delay("three")
        assert result.status == "PENDING"
        canvas.release("one")
        wait_until(lambda: result.status == "STARTED")
        canvas.release("three")
        assert get(result) == "three"


@pytest.mark.parametrize("how", ["countdown", "eta"])
def test_a_task_that_is_due_later_starts_later(canvas: Canvas, how: str) -> None:
    due = (
        {"countdown": 0.6}
        if how == "countdown"
        else {"eta": datetime.now(UTC) + timedelta(seconds=0.6)}
    )
    before = time.time()
    result = canvas.tasks.note.apply_async(("late",), **due)
    assert get(result) == "late"
    assert sent(result)["started"] >= before + 0.59


def test_a_task_is_told_when_it_was_due(tasks: Any) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.1)
    told = datetime.fromisoformat(get(tasks.eta.apply_async(eta=due)))
    assert abs(told - due) < timedelta(milliseconds=1)
    assert get(tasks.eta.delay()) is None


def test_a_revoked_task_that_waits_never_runs(canvas: Canvas) -> None:
    with canvas.all_slots_taken():
        result = canvas.tasks.note.delay("revoked")
        result.revoke()
    with pytest.raises(TaskRevokedError):
        get(result)
    assert (result.status, canvas.noted()) == ("REVOKED", [])


def test_a_revoked_task_that_is_delayed_never_runs(canvas: Canvas) -> None:
    """And who waits for it learns of it at once."""
    result = canvas.tasks.note.apply_async(("revoked",), countdown=3600)
    assert canvas.waiting(result.id)
    assert (canvas.client.redis.zcard("venom:delayed"), canvas.held()) == (1, 0), "it takes no slot"
    result.revoke()
    with pytest.raises(TaskRevokedError):
        get(result)
    assert (result.status, canvas.noted()) == ("REVOKED", [])


def test_a_revoked_task_that_runs_can_be_terminated(canvas: Canvas) -> None:
    canvas.client.redis.delete("held")
    result = canvas.tasks.hold.delay("endless")
    wait_until(lambda: canvas.client.redis.llen("held") == 1)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        get(result)
    assert get(canvas.tasks.add.delay(1, 1)) == 2


def test_an_expired_task_never_runs(canvas: Canvas) -> None:
    with canvas.all_slots_taken():
        expires = time.time() + 0.2
        result = canvas.tasks.note.apply_async(("expired",), expires=0.2)
        wait_until(lambda: time.time() > expires + 0.1)
    with pytest.raises(TaskRevokedError, match="expired"):
        get(result)
    assert (result.status, canvas.noted()) == ("REVOKED", [])


# -- routes and errors


def test_the_applications_own_routes_keep_their_queue(tasks: Any) -> None:
    assert get(tasks.film.delay()) == ["canvas@h", "video", 9]
    assert get(tasks.film.apply_async(priority=2)) == ["canvas@h", "video", 2]
    assert get(tasks.film.apply_async(queue=HIGH)) == ["canvas@h", HIGH, 9]


NOWHERE = {"labels": {"disk": "tape"}}


def test_what_no_known_node_can_run_fails_when_it_is_sent(canvas: Canvas) -> None:
    with pytest.raises(NoEligibleNodeError, match="tape"):
        canvas.tasks.add.apply_async((1, 2), requirements=NOWHERE)
    assert canvas.client.redis.hlen("venom:entries") == 0


def test_of_a_group_whose_third_member_cannot_run_two_have_been_sent(canvas: Canvas) -> None:
    members = [
        canvas.tasks.note.s("first"),
        canvas.tasks.note.s("second"),
        canvas.tasks.note.s("third").set(requirements=NOWHERE),
    ]
    with pytest.raises(NoEligibleNodeError):
        group(members).apply_async()
    wait_until(lambda: len(canvas.noted()) == 2)
    assert sorted(canvas.noted()) == ["first", "second"]


def test_the_finished_parent_of_what_cannot_run_becomes_a_failure(tasks: Any) -> None:
    result = chain(tasks.add.s(1, 2), tasks.add.s(3).set(requirements=NOWHERE))()
    with pytest.raises(NoEligibleNodeError, match="tape"):
        get(result)
    assert result.parent.status == "FAILURE"


def test_a_chord_whose_body_cannot_run_is_a_chord_error(tasks: Any) -> None:
    with pytest.raises(ChordError, match="tape"):
        get(
            chord(
                [tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.total.s().set(requirements=NOWHERE)
            )()
        )


def test_a_requirement_that_a_node_meets_is_served(canvas: Canvas) -> None:
    result = canvas.tasks.add.apply_async((1, 2), requirements={"cpus": 0.1})
    assert get(result) == 3
    pinned = canvas.tasks.film.apply_async(requirements={"node": "canvas@h"})
    assert get(pinned)[0] == "canvas@h"


# -- threads


def test_a_worker_of_threads_does_the_same(canvas: Canvas) -> None:
    canvas.start("threads", "-P", "threads", "-Q", "threads")
    tasks = canvas.tasks

    def here(signature: Any) -> Any:
        return signature.set(queue="threads")

    assert get(chain(here(tasks.add.s(1, 2)), here(tasks.double.s()))()) == 6
    assert get(chord([here(tasks.add.s(n, n)) for n in range(4)], here(tasks.total.s()))()) == 12
    flaky = here(tasks.flaky.s(1)).delay()
    assert get(flaky) == 1
    assert sent(flaky)["node"] == "threads@h"
    with pytest.raises(ValueError, match="broken"):
        get(here(tasks.fail.s("broken")).delay())
    assert get(here(tasks.note.s("late")).apply_async(countdown=0.3)) == "late"
    revoked = here(tasks.note.s("revoked")).apply_async(countdown=0.3)
    revoked.revoke()
    with pytest.raises(TaskRevokedError):
        get(revoked)
    canvas.client.redis.delete("held")
    early = [here(tasks.hold_acknowledged_early.s(name)).delay() for name in ("three", "four")]
    wait_until(lambda: canvas.client.redis.llen("held") == 2)
    third = here(tasks.note.s("third")).delay()
    assert canvas.client.redis.hlen("venom:reserved:threads@h") == 2
    canvas.release("three", "four")
    assert [get(result) for result in early] == ["three", "four"]
    assert get(third) == "third"
    assert canvas.noted() == ["late", "third"]
