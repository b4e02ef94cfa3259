"""A broker beyond its `maxmemory`: it takes nothing new and says so, and what it has accepted is
worked off to the end.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, _state, chord

import hive
from hive.broker import message_broker
from hive.broker.channel import idempotency
from hive.broker.channel import steps as broker_steps
from hive.broker.ledger import dead_letters, records
from hive.broker.link.client import client_of
from hive.broker.link.scripts import ALLOW_OOM, Script
from hive.broker.nodes import table as nodes
from hive.broker.results import backend
from hive.errors import BrokerMemoryError
from hive.foreman.watch.thread import WatchdogThread
from hive.jobs.state import steps as job_steps
from tests.harness import wait_until
from tests.integration import jobs
from tests.integration.channel_steps import A1, Steps
from tests.integration.cluster import Cluster
from tests.nodes import BACKGROUND


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    default = _state.default_app
    with closing(Cluster(tmp_path, hive_max_retries=20)) as cluster:
        yield cluster
        # A chord's results listen until they are dropped, which would look for the broker for 20 s.
        gc.collect()
    _state.set_default_app(default)


def fill(cluster: Cluster) -> None:
    """Nothing that the tests free brings it below: every command that could need memory is refused
    from now on.
    """
    client_of(cluster.app).redis.config_set("maxmemory", "1")


def free(cluster: Cluster) -> None:
    client_of(cluster.app).redis.config_set("maxmemory", "0")


def test_a_full_broker_refuses_what_is_new_in_one_sentence_and_takes_it_later(
    cluster: Cluster,
) -> None:
    steps = Steps(client_of(cluster.app))
    app: Celery = cluster.app
    jobs.plain.apply_async()
    before = steps.hash("entries"), steps.counters()

    def batched() -> None:
        with app.producer_pool.acquire(block=True) as producer, producer.batch():
            for _ in range(3):
                app.send_task("some.task", producer=producer, ignore_result=True)

    ways: list[Callable[[], Any]] = [
        jobs.plain.apply_async,
        lambda: jobs.plain.apply_async(countdown=60),
        lambda: app.send_task("some.task", queue="never-declared"),
        lambda: app.backend.set_chord_size("group", 2),
        lambda: hive.map(jobs.add_numbers, [1, 2], app=app),
        batched,
    ]
    fill(cluster)
    for way in ways:
        with pytest.raises(BrokerMemoryError) as told:
            way()
        assert "out of memory" in told.value.message
        assert "\n" not in told.value.message
    assert (steps.hash("entries"), steps.counters()) == before
    assert steps.publish(next(iter(before[0]))) == [0], "what is known already is no new work"
    free(cluster)
    for way in ways:
        way()
    assert steps.counters()["accepted"] >= before[1]["accepted"] + 7


def test_what_was_accepted_is_worked_off_by_workers_that_start_meanwhile(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Results, retries, callbacks, chords and jobs included; a node that dies holding work is
    noticed, and its work runs elsewhere.
    """
    client = client_of(cluster.app)
    steps = Steps(client)
    begun, go = tmp_path / "begun", tmp_path / "go"
    results = [jobs.add_numbers.delay(1, number) for number in range(20)]
    results.append(jobs.sends_on.apply_async((str(begun), str(go)), link=jobs.add_numbers.si(1, 1)))
    results.append(
        chord([jobs.add_numbers.si(1, 1), jobs.add_numbers.si(2, 2)])(jobs.add_numbers.si(3, 3))
    )
    results.append(jobs.add_numbers.apply_async((1, 1), countdown=0.5))
    results.append(jobs.add_numbers.apply_async((1, 1), requirements={"memory_mb": 1}))
    job = hive.map(jobs.add_numbers, range(50), reduce="sum", app=cluster.app)
    fill(cluster)
    watchdog = WatchdogThread(client, cluster.app)
    watchdog.start()
    try:
        dies = cluster.spawn("dies", concurrency=1)
        wait_until(begun.exists, what="the task runs that waits")
        cluster.spawn("lives", concurrency=2)
        dies.kill()
        wait_until(lambda: begun.read_text().startswith("xx"), what="it runs again elsewhere")
        go.touch()
        values = [result.get(timeout=60) for result in results]
        assert values == [1 + number for number in range(20)] + [1, 6, 2, 2]
        assert job.result(timeout=60).value == sum(range(50))
        wait_until(lambda: not steps.hash("entries"), what="everything has ended")
    finally:
        watchdog.stop()
    assert steps.counters()["accepted"] == steps.counters()["done"]
    with pytest.raises(BrokerMemoryError):
        jobs.add_numbers.delay(1, 1)
    free(cluster)
    assert jobs.add_numbers.delay(1, 1).get(timeout=60) == 2


def test_no_step_of_the_channel_is_refused_but_a_publication(cluster: Cluster) -> None:
    steps = Steps(client_of(cluster.app))
    for name in "pqrs":
        steps.publish(name, task_id=f"t{name}")
    fill(cluster)
    assert steps.attach(A1)[0] == "ok"
    assert steps.take(A1, 3) == ["p", "q", "r"]
    assert steps.acknowledge(A1, "p") == 1
    assert steps.give_back(A1, "q")[0] == "q"
    assert steps.restore(A1)[:2] == [1, 0]
    assert sorted(steps.waiting(BACKGROUND)) == sorted(steps.hash("entries")) == ["q", "r", "s"]
    assert (steps.counters()["accepted"], steps.counters()["done"]) == (4, 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        steps.publish("t")
    assert sorted(steps.hash("entries")) == ["q", "r", "s"], "refused before it wrote anything"


def test_scripts_that_the_server_may_refuse_are_those_that_bring_work() -> None:
    modules = (
        broker_steps,
        job_steps,
        dead_letters,
        idempotency,
        backend,
        nodes,
        records,
        message_broker,
    )
    scripts = {
        script.name: script
        for module in modules
        for script in vars(module).values()
        if isinstance(script, Script)
    }
    refusable = {
        script.name for script in scripts.values() if not script.text.startswith(ALLOW_OOM)
    }
    assert refusable == {"create", "push"}
    assert not broker_steps.PUBLISH.text.startswith(ALLOW_OOM)
    assert broker_steps.FOLLOW_UP.text == ALLOW_OOM + broker_steps.PUBLISH.text
