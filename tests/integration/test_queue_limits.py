"""HIVE_QUEUE_LIMIT: a full queue refuses what comes from outside, says so, and never what accepted
work needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, _state
from kombu import Queue

import hive
from hive.broker.channel.publishing import following_up
from hive.broker.link.client import BrokerClient, client_of
from hive.errors import QueueFullError
from hive.settings import Settings
from tests.harness import BrokerServer, wait_until
from tests.integration import jobs
from tests.integration.channel_steps import A1, B1, Steps, plain_message
from tests.integration.cluster import Cluster
from tests.nodes import BACKGROUND, HIGH, make_settings

LIMIT = 3


@pytest.fixture(autouse=True)
def _celery_as_it_was() -> Iterator[None]:
    default = _state.default_app
    yield
    _state.set_default_app(default)


@pytest.fixture
def app(broker: BrokerServer) -> Iterator[Celery]:
    settings = Settings.load(redis_host="127.0.0.1", redis_port=broker.port, hive_queue_limit=LIMIT)
    app = Celery("limited", set_as_current=False)
    app.conf.task_queues = [
        Queue("own", max_length=1),
        Queue("rabbits", queue_arguments={"x-max-length": 2}),
    ]
    yield hive.install(app, settings)
    for router in app.conf.task_routes:
        router.close()
    app.close()
    client_of(app).close()


@pytest.fixture
def steps(broker: BrokerServer) -> Iterator[Steps]:
    with closing(BrokerClient(broker.url, make_settings())) as client:
        yield Steps(client)


def send(app: Celery, **options: Any) -> None:
    app.send_task("some.task", ignore_result=True, **options)


def test_a_full_queue_refuses_with_one_sentence_and_keeps_what_it_accepted(
    app: Celery, steps: Steps
) -> None:
    for priority in (0, 5, 10):
        send(app, priority=priority)
    with pytest.raises(QueueFullError) as told:
        send(app)
    assert (told.value.queue, told.value.limit) == (BACKGROUND, LIMIT)
    assert "\n" not in told.value.message
    assert all(
        word in told.value.message
        for word in (BACKGROUND, str(LIMIT), "HIVE_QUEUE_LIMIT", "nothing was sent")
    )
    assert (len(steps.waiting(BACKGROUND)), len(steps.hash("entries")), len(steps.hash("ids"))) == (
        LIMIT,
    ) * 3
    assert steps.counters() == {"accepted": LIMIT}
    send(app, queue=HIGH)
    steps.attach(A1)
    steps.take(A1, 2)
    send(app)
    assert len(steps.waiting(BACKGROUND)) == LIMIT, "one was taken from high, one from here"


def test_a_queue_has_the_limit_of_its_own(app: Celery, steps: Steps) -> None:
    for queue, limit in (("own", 1), ("rabbits", 2), ("undeclared", LIMIT)):
        for _ in range(limit):
            send(app, queue=queue)
        with pytest.raises(QueueFullError, match=f"{queue} is full .{limit} "):
            send(app, queue=queue)
        assert len(steps.waiting(queue)) == limit


def test_a_publication_known_already_is_not_refused(steps: Steps) -> None:
    assert steps.publish("p", limit=1) == [1, ""]
    assert steps.publish("p", limit=1) == [0]
    steps.attach(A1)
    steps.take(A1, 1)
    steps.acknowledge(A1, "p")
    assert steps.publish("q", limit=1) == [1, ""]
    assert steps.publish("p", limit=1) == [0]


def test_what_a_plain_celery_producer_pushed_counts_once_entries_are_that_many(
    steps: Steps,
) -> None:
    steps.redis.lpush(BACKGROUND, plain_message("plain"))
    steps.publish("p")
    steps.publish("running", home=HIGH)
    steps.attach(A1)
    assert steps.take(A1, 1) == ["running"]
    with pytest.raises(Exception, match=f"QUEUEFULL 2 {BACKGROUND}"):
        steps.publish("q", limit=2)


def test_a_full_queue_takes_back_what_comes_home(steps: Steps) -> None:
    steps.attach(A1)
    steps.publish("ran")
    steps.take(A1, 1)
    steps.publish("died")
    assert steps.take(A1, 2) == ["died"]
    steps.publish("later", delay=1)
    for name in ("p", "q"):
        steps.publish(name, limit=2)
    with pytest.raises(Exception, match="QUEUEFULL"):
        steps.publish("r", limit=2)
    with pytest.raises(Exception, match="QUEUEFULL"):
        steps.publish("delayed", limit=2, delay=1000)
    steps.give_back(A1, "ran", deaths=0)
    steps.restore(A1)
    steps.attach(B1)
    wait_until(
        lambda: steps.reserve(B1, 0) and not steps.redis.zcard("venom:delayed"), what="it was due"
    )
    assert sorted(steps.waiting(BACKGROUND)) == ["died", "later", "p", "q", "ran"]


def test_what_waits_for_a_rate_limit_fills_its_queue(steps: Steps) -> None:
    names = ["p", "q", "r"]
    for name in names:
        steps.publish(name, limit=LIMIT)
    steps.attach(A1)
    assert steps.take(A1, LIMIT) == names
    steps.postpone(A1, *names, task="calls")
    with pytest.raises(redis.exceptions.ResponseError, match="QUEUEFULL"):
        steps.publish("s", limit=LIMIT)
    assert steps.publish("elsewhere", home=HIGH, limit=LIMIT) == [1, ""]
    assert steps.call_up("a@h", "calls") == (1, 2)
    assert steps.publish("s", limit=LIMIT) == [1, ""], "the one that was called is at its node"


def test_batched_publications_are_refused_each_by_itself(app: Celery, steps: Steps) -> None:
    def send_together() -> None:
        with app.producer_pool.acquire(block=True) as producer, producer.batch():
            for queue in (*[BACKGROUND] * (LIMIT + 2), HIGH):
                send(app, producer=producer, queue=queue)

    with pytest.raises(QueueFullError, match=BACKGROUND):
        send_together()
    assert (len(steps.waiting(BACKGROUND)), len(steps.waiting(HIGH))) == (LIMIT, 1)
    assert len(steps.hash("entries")) == LIMIT + 1


def test_what_follows_up_on_accepted_work_is_never_refused(app: Celery, steps: Steps) -> None:
    for _ in range(LIMIT):
        send(app)
    with following_up():
        send(app)
    with pytest.raises(QueueFullError):
        send(app)
    with app.producer_pool.acquire(block=True) as producer, following_up(), producer.batch():
        send(app, producer=producer)
    assert len(steps.waiting(BACKGROUND)) == LIMIT + 2
    sent = [steps.entry(publish_id).message["properties"] for publish_id in steps.hash("entries")]
    assert not any({"hive_limit", "hive_follow_up"} & properties.keys() for properties in sent)


def test_without_a_limit_nothing_is_asked(broker: BrokerServer, app: Celery, steps: Steps) -> None:
    def commands() -> int:
        return sum(
            int(steps.redis.info("commandstats").get(f"cmdstat_{name}", {"calls": 0})["calls"])
            for name in ("llen", "hlen")
        )

    before = commands()
    steps.publish("p")
    without = commands() - before
    before = commands()
    steps.publish("q", limit=100)
    assert commands() - before == without + 1
    before = commands()
    steps.publish("r", limit=3)
    assert commands() - before == without + 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with closing(Cluster(tmp_path, hive_queue_limit=2)) as cluster:
        cluster.spawn("a", concurrency=1)
        cluster.wait_online("a")
        yield cluster


def test_running_work_and_jobs_end_though_their_queue_is_full(
    cluster: Cluster, tmp_path: Path
) -> None:
    """One slot, taken by a task that retries, calls back and sends on while its queue is full to
    the brim from outside.
    """
    begun, go = tmp_path / "begun", tmp_path / "go"
    task = jobs.sends_on.apply_async((str(begun), str(go)), link=jobs.add_numbers.si(1, 1))
    wait_until(begun.exists)
    listed = hive.map(jobs.add_numbers, [1, 2, 3], reduce="sum", app=cluster.app)
    jobs.plain.apply_async()
    for refused in (
        jobs.plain.apply_async,
        lambda: hive.map(jobs.add_numbers, [1, 2, 3], app=cluster.app),
    ):
        with pytest.raises(QueueFullError):
            refused()
    fed = hive.map(jobs.add_numbers, iter([1, 2, 3]), app=cluster.app)
    assert "is full" in (fed.result(timeout=60).error or "")
    go.touch()
    assert task.get(timeout=60) == 1, "it was retried once"
    assert listed.result(timeout=60).value == 6
    steps = Steps(client_of(cluster.app))
    wait_until(lambda: not steps.hash("entries"), what="everything has ended")
    # The task twice, its callback, what it sent, what came from outside, the job's puller and its
    # end.
    assert steps.counters()["accepted"] >= 7
    assert steps.counters()["accepted"] == steps.counters()["done"]
    assert not steps.redis.keys("venom:job:*:blocks"), "nothing stays of the jobs that were refused"
