"""A task with the same key completes once: the steps one by one, then real workers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chord

import hive
from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient, client_of
from hive.broker.link.scripts import Script
from hive.broker.nodes.table import NodeTable
from hive.errors import InvalidInputError
from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration.channel_steps import A1, A2, B1, Steps
from tests.nodes import make_settings

CLAIM = Script("hive.broker.channel", "once_claim", include=(LIBRARY,))
COMPLETE = Script("hive.broker.channel", "once_complete", include=(LIBRARY,))
RELEASE = Script("hive.broker.channel", "once_release", include=(LIBRARY,))


@pytest.fixture(params=["", "tenant:"], ids=["", "with a key prefix"])
def channel(request: pytest.FixtureRequest, broker: BrokerServer) -> Iterator[Steps]:
    client = BrokerClient(broker.url, make_settings(), prefix=request.param)
    steps = Steps(client)
    for incarnation in (A1, A2, B1):
        steps.attach(incarnation)
    yield steps
    for key in client.redis.scan_iter():
        assert key.startswith(request.param.encode()), "every key has the prefix"
    client.close()


def claim(channel: Steps, publish_id: str, incarnation: str) -> str:
    return str(channel.run(CLAIM, "charge", "7", publish_id, incarnation, 60)[0])


def complete(channel: Steps, value: str, seconds: int = 60) -> str:
    return str(channel.run(COMPLETE, "charge", "7", value, seconds))


def release(channel: Steps, publish_id: str, incarnation: str) -> int:
    return int(channel.run(RELEASE, "charge", "7", publish_id, incarnation))


def deliver(channel: Steps, publish_id: str, incarnation: str) -> None:
    """Let an incarnation reserve a message; it is published unless it was."""
    channel.publish(publish_id)
    assert channel.take(incarnation, 10) == [publish_id]


def test_a_claim_holds_while_its_delivery_is_reserved(channel: Steps) -> None:
    deliver(channel, "p", A1)
    deliver(channel, "q", B1)
    assert (claim(channel, "p", A1), claim(channel, "q", B1)) == ("yours", "held")
    assert claim(channel, "p", A1) == "yours", "asked again, since the reply was lost"
    assert 0 < channel.redis.ttl(channel.client.key("once", "charge", "7")) <= 60


@pytest.mark.parametrize("end", ["death", "process", "acknowledged"])
def test_the_claim_of_a_delivery_that_is_over_is_taken_over(channel: Steps, end: str) -> None:
    deliver(channel, "p", A1)
    deliver(channel, "q", B1)
    claim(channel, "p", A1)
    if end == "death":
        channel.restore(A1)
    elif end == "process":
        channel.give_back(A1, "p")
    else:
        channel.acknowledge(A1, "p")
    assert claim(channel, "q", B1) == "yours"


def test_a_message_delivered_again_takes_its_own_claim_over_and_so_does_a_stranger_meanwhile(
    channel: Steps,
) -> None:
    deliver(channel, "q", B1)
    deliver(channel, "p", A1)
    claim(channel, "p", A1)
    channel.restore(A1)
    deliver(channel, "p", A2)
    assert claim(channel, "p", A2) == "yours"
    assert claim(channel, "q", B1) == "held"
    channel.give_back(A2, "p")
    deliver(channel, "p", A2)
    assert claim(channel, "q", B1) == "held", "reserved again, and about to run again"


def test_the_first_completion_is_final(channel: Steps) -> None:
    deliver(channel, "p", A1)
    deliver(channel, "q", B1)
    claim(channel, "p", A1)
    assert complete(channel, '"first"') == '"first"'
    assert (claim(channel, "p", A1), claim(channel, "q", B1)) == ("done", "done")
    assert complete(channel, '"second"') == '"first"'
    assert (release(channel, "p", A1), claim(channel, "q", B1)) == (0, "done")
    assert 0 < channel.redis.ttl(channel.client.key("once", "charge", "7")) <= 60


def test_results_that_never_expire_are_kept_for_ever(channel: Steps) -> None:
    deliver(channel, "p", A1)
    claim(channel, "p", A1)
    complete(channel, "1", seconds=0)
    assert channel.redis.ttl(channel.client.key("once", "charge", "7")) == -1


def test_only_the_delivery_that_claimed_releases(channel: Steps) -> None:
    deliver(channel, "p", A1)
    deliver(channel, "q", B1)
    claim(channel, "p", A1)
    assert (release(channel, "q", B1), release(channel, "p", A2)) == (0, 0)
    assert claim(channel, "q", B1) == "held"
    assert release(channel, "p", A1) == 1
    assert claim(channel, "q", B1) == "yours"


# -- on workers

APPLICATION = """
import os

from celery import Celery
from celery.exceptions import Ignore
from pydantic import BaseModel

import hive
from hive.broker.link.client import client_of

app = hive.install(Celery("once_app"))


def redis():
    return client_of(app).redis


def ran(key):
    return redis().incr(f"ran {key}")


@app.task
@hive.idempotent(key="charge-{order_id}")
def charge(order_id, cents=0):
    return [ran(f"charge-{order_id}"), cents]


@app.task
@hive.idempotent(key="{name}")
def hold(name):
    number = ran(name)
    redis().blpop(f"release {name}", 20)
    return number


@app.task
@hive.idempotent(key="{name}")
def dies_first(name):
    number = ran(name)
    if number == 1:
        os.kill(os.getpid(), 9)
    return number


@app.task(bind=True, max_retries=1)
@hive.idempotent(key=lambda name: name)
def retries_once(self, name):
    number = ran(name)
    if number == 1:
        redis().blpop(f"release {name}", 20)
        raise Ignore  # no completion, and it says nothing
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return [number, self.request.retries]


@app.task
@hive.idempotent(key="{name}")
def fails_first(name):
    number = ran(name)
    if number == 1:
        raise ValueError("first")
    return number


@app.task
@hive.idempotent(key="{name}")
def no_json(name):
    ran(name)
    return object()


class Parcel(BaseModel):
    name: str


@hive.skill("Wrap once", name="wrap_once", input=Parcel)
@hive.idempotent(key="wrap-{name}")
def wrap_once(name):
    return f"{name} {ran(name)}"


@app.task
@hive.idempotent(key="{item[key]}")
def of_a_job(item):
    number = ran(item["key"])
    if item.get("fail"):
        raise ValueError("no")
    redis().blpop("nothing", item["seconds"])
    return number


@app.task
def total(values):
    return sum(values)
"""


class Shop:
    """The application and a worker of 3 slots."""

    def __init__(self, directory: Path, tasks: Any, environment: dict[str, str], pool: str) -> None:
        self.tasks = tasks
        self.client = client_of(tasks.app)
        name, options = f"once-{pool}", ("--pool", pool, "--without-gossip", "--without-mingle")
        self.worker = WorkerProcess.celery(
            directory, name, app="once_app", concurrency=3, env=environment, options=options
        )
        table = NodeTable(self.client)
        wait_until(
            lambda: (node := table.read().get(f"{name}@h")) and node.online,
            30,
            self.worker.output(),
        )

    def ran(self, key: str) -> int:
        return int(self.client.redis.get(f"ran {key}") or 0)

    def wait_for_run(self, key: str) -> None:
        wait_until(lambda: self.ran(key), what=f"{key} runs")

    def release(self, key: str) -> None:
        self.client.redis.rpush(f"release {key}", "")

    def counter(self, name: str) -> int:
        return int(self.client.redis.hget("venom:counters", name) or 0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("once")
    (made / "once_app.py").write_text(APPLICATION)
    return made


@pytest.fixture(scope="module")
def tasks(directory: Path, broker_server: BrokerServer) -> Iterator[Any]:
    """The application, as a client has it."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in broker_server.environment.items():
            patch.setenv(variable, value)
        patch.syspath_prepend(str(directory))
        module: Any = importlib.import_module("once_app")
    yield module
    module.app.backend.result_consumer.stop()
    module.app.close()
    client_of(module.app).close()
    del sys.modules["once_app"]


@pytest.fixture(scope="module", params=["prefork", "threads"])
def shop(
    request: pytest.FixtureRequest, directory: Path, tasks: Any, broker_server: BrokerServer
) -> Iterator[Shop]:
    with broker_server.client() as client:
        client.flushall()
    opened = Shop(directory, tasks, broker_server.environment, request.param)
    yield opened
    opened.worker.stop()


def test_what_is_sent_again_answers_with_the_first_result(shop: Shop) -> None:
    assert shop.tasks.charge.delay(1, cents=5).get(timeout=60) == [1, 5]
    assert shop.tasks.charge.delay(order_id=1, cents=9).get(timeout=60) == [1, 5]
    assert shop.tasks.charge.delay(2).get(timeout=60) == [1, 0], "another key"
    assert 86_000 < shop.client.redis.ttl("venom:once:once_app.charge:charge-1") <= 86_400


def test_who_comes_while_it_runs_waits_without_a_slot(shop: Shop) -> None:
    first = shop.tasks.hold.delay("waited for")
    shop.wait_for_run("waited for")
    others = [shop.tasks.hold.delay("waited for") for _ in range(5)]
    retried = shop.counter("retried")
    wait_until(lambda: shop.counter("retried") >= retried + 5, what="they were sent again")
    assert shop.tasks.charge.delay(3).get(timeout=60) == [1, 0], "the slots are not theirs"
    shop.release("waited for")
    assert [result.get(timeout=60) for result in (first, *others)] == [1] * 6
    assert shop.ran("waited for") == 1


def test_a_members_of_a_chord_that_waits_is_counted_once(shop: Shop) -> None:
    first = shop.tasks.hold.delay("in a chord")
    shop.wait_for_run("in a chord")
    result = chord([shop.tasks.hold.s("in a chord"), shop.tasks.hold.s("in a chord")])(
        shop.tasks.total.s()
    )
    shop.release("in a chord")
    assert (first.get(timeout=60), result.get(timeout=60)) == (1, 2)


def test_waiting_uses_up_no_retry(shop: Shop) -> None:
    shop.tasks.retries_once.apply_async(("patient",), ignore_result=True)
    shop.wait_for_run("patient")
    retried = shop.counter("retried")
    result = shop.tasks.retries_once.delay("patient")
    wait_until(
        lambda: shop.counter("retried") >= retried + 2,
        what="it waited more often than it may retry",
    )
    shop.release("patient")
    assert result.get(timeout=60) == [3, 1]


def test_a_failed_run_is_no_completion(shop: Shop) -> None:
    with pytest.raises(ValueError, match="first"):
        shop.tasks.fails_first.delay("failing").get(timeout=60)
    assert [shop.tasks.fails_first.delay("failing").get(timeout=60) for _ in range(2)] == [2, 2]


def test_an_error_of_the_key_or_of_the_result_fails_the_task(shop: Shop) -> None:
    with pytest.raises(
        InvalidInputError,
        match="The key of of_a_job cannot be made of its arguments: KeyError: 'key'",
    ):
        shop.tasks.of_a_job.delay({}).get(timeout=60)
    with pytest.raises(
        InvalidInputError, match="no_json is idempotent, so its result has to be JSON"
    ):
        shop.tasks.no_json.delay("object").get(timeout=60)
    assert shop.client.redis.exists("venom:once:once_app.no_json:object") == 0


def test_a_skills_key_is_made_of_its_checked_input(shop: Shop) -> None:
    results = [shop.tasks.wrap_once.delay("book"), shop.tasks.wrap_once.delay(name="book")]
    assert [result.get(timeout=60) for result in results] == ["book 1"] * 2
    assert shop.client.redis.exists("venom:once:once_app.wrap_once:wrap-book") == 1


def test_items_of_a_job_run_once_a_key_and_wait_in_their_place(shop: Shop) -> None:
    items = [{"key": f"item {number % 3}", "seconds": 0.3} for number in range(9)]
    outcomes = (
        hive.map(shop.tasks.of_a_job, items, chunk=1, app=shop.tasks.app)
        .result(timeout=30)
        .outcomes
    )
    assert [outcome.value for outcome in outcomes] == [1] * 9
    assert [shop.ran(f"item {number}") for number in range(3)] == [1, 1, 1]


def test_an_item_that_fails_frees_its_key_at_once(shop: Shop) -> None:
    items = [{"key": "failing item", "seconds": 0.01, "fail": number == 0} for number in range(3)]
    outcomes = (
        hive.map(shop.tasks.of_a_job, items, chunk=3, app=shop.tasks.app)
        .result(timeout=30)
        .outcomes
    )
    assert [(outcome.status, outcome.value) for outcome in outcomes] == [
        ("failed", None),
        ("ok", 2),
        ("ok", 2),
    ]


@pytest.mark.parametrize("shop", ["prefork"], indirect=True)
def test_a_run_that_died_is_run_again(shop: Shop) -> None:
    results = [shop.tasks.dies_first.delay("killed") for _ in range(3)]
    assert [result.get(timeout=60) for result in results] == [2, 2, 2]
    assert shop.ran("killed") == 2
