"""hive.map fed by iterators: outcomes as they come, slow and endless inputs, inputs that fail,
callers that die, asyncio.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

import hive
from hive.broker.link.client import client_of
from hive.errors import OutcomesDroppedError
from hive.jobs.answer.job import Job, JobResult
from hive.jobs.input.slots import eligible_slots
from tests.harness import wait_until
from tests.integration import map_skills as skills
from tests.integration.cluster import REPOSITORY
from tests.integration.map_cluster import MapCluster, by_index, map_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapCluster]:
    with map_cluster(
        tmp_path_factory.mktemp("map"), "one", "two", hive_heartbeat_interval=0.3
    ) as cluster:
        yield cluster


def test_a_generator_gives_every_outcome_once(cluster: MapCluster) -> None:
    job = hive.map(skills.square, (number for number in range(30_000)), "sum", app=cluster.app)
    assert {index: outcome.value for index, outcome in by_index(iter(job)).items()} == {
        n: n * n for n in range(30_000)
    }
    assert job.result(10).value == sum(number * number for number in range(30_000))
    assert job.progress().total == 30_000


def test_outcomes_come_while_the_input_goes_on(cluster: MapCluster) -> None:
    go_on = threading.Event()

    def waiting_input() -> Iterator[int]:
        yield from range(3)
        go_on.wait(30)
        yield from range(3, 6)

    job = hive.map(skills.square, waiting_input(), feed="thread", app=cluster.app)
    stream = iter(job)
    assert {next(stream).index for _ in range(3)} == {0, 1, 2}
    assert job.progress().total is None
    go_on.set()
    assert {outcome.index for outcome in stream} == {3, 4, 5}
    assert job.progress().total == 6


def test_items_of_a_slow_input_do_not_wait_for_each_other(cluster: MapCluster) -> None:
    seen = threading.Semaphore(0)

    def slow_input() -> Iterator[int]:
        for number in range(5):
            yield number
            assert seen.acquire(timeout=60), f"item {number} waits for later ones"

    outcomes = []
    for outcome in hive.map(skills.square, slow_input(), feed="thread", app=cluster.app):
        outcomes.append(outcome.value)
        seen.release()
    assert outcomes == [0, 1, 4, 9, 16]


def test_an_input_that_pauses_after_its_first_block_is_worked_on(cluster: MapCluster) -> None:
    first_block = eligible_slots(client_of(cluster.app), None)
    seen = threading.Semaphore(0)

    def pausing() -> Iterator[int]:
        yield from range(first_block)
        for _ in range(first_block):
            assert seen.acquire(timeout=60), "its items wait for later ones"
        yield first_block

    indexes = []
    for outcome in hive.map(skills.square, pausing(), feed="thread", app=cluster.app):
        indexes.append(outcome.index)
        seen.release()
    assert sorted(indexes) == list(range(first_block + 1))


@pytest.mark.parametrize("feed", ["caller", "thread"])
def test_the_input_of_a_slow_skill_is_not_taken_far_ahead(
    cluster: MapCluster, feed: Literal["caller", "thread"]
) -> None:
    taken = itertools.count()
    last = [0]

    def endless() -> Iterator[float]:
        while True:
            last[0] = next(taken)
            yield 0.1

    job = hive.map(skills.pause, endless(), feed=feed, app=cluster.app)
    for outcome in itertools.islice(job, 20):
        assert last[0] - outcome.index < 300
    job.cancel()
    assert job.result(60).complete
    stopped_at = last[0]
    wait_until(
        lambda: not [t for t in threading.enumerate() if job.id[:8] in t.name],
        what="its threads ended",
    )
    assert last[0] - stopped_at < 300


def test_an_input_that_raises_ends_the_job_with_what_was_sent(cluster: MapCluster) -> None:
    def breaks() -> Iterator[int]:
        yield from range(10)
        raise OSError("the file is gone")

    result = hive.map(skills.square, breaks(), "sum", app=cluster.app).result(60)
    assert (result.value, len(result.outcomes), result.complete) == (285, 10, False)
    assert "after 10 items: OSError: the file is gone" in str(result.error)


def test_an_item_that_json_cannot_hold_ends_the_input(cluster: MapCluster) -> None:
    result = hive.map(skills.echo, iter([1, 2, {3}, 4]), "list", app=cluster.app).result(60)
    assert result.value == [1, 2]
    assert "Item 2, of type set" in str(result.error)


def test_an_input_without_items_is_a_job_that_has_ended(cluster: MapCluster) -> None:
    for reduce, value in (("count", 0), (skills.longest, ""), (None, None)):
        result = hive.map(skills.square, iter(()), reduce, app=cluster.app).result(10)
        assert (result.value, len(result.outcomes), result.error) == (value, 0, None)


def test_an_asyncio_program_streams_and_awaits(cluster: MapCluster) -> None:
    async def use() -> tuple[list[int], Any, int]:
        job = hive.map(skills.slow_echo, (number for number in range(40)), "sum", app=cluster.app)
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        beside = asyncio.create_task(turn())
        seen = [outcome.index async for outcome in job]
        result = await job
        beside.cancel()
        return seen, result, turns

    seen, result, turns = asyncio.run(use())
    assert sorted(seen) == list(range(40))
    assert (result.value, result.complete) == (sum(range(40)), True)
    assert turns > 5


CALLER = """
import itertools, sys, time, hive
def slowly():
    for number in itertools.count():
        yield number
        time.sleep(0.02)
job = hive.map(sys.argv[1], slowly(), "count")
print(job.id, flush=True)
job.result(60)
"""


def test_a_job_whose_caller_died_ends_with_what_was_sent_and_says_so(
    cluster: MapCluster, tmp_path: Path
) -> None:
    environment = {
        **cluster.server.environment,
        "PYTHONPATH": str(REPOSITORY),
        "HIVE_HEARTBEAT_INTERVAL": "0.3",
    }
    program = "import tests.integration.map_skills\n" + CALLER.replace(
        "sys.argv[1]", "tests.integration.map_skills.square"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert caller.stdout is not None
        job = hive.job(caller.stdout.readline().strip(), app=cluster.app)
        wait_until(lambda: job.progress().completed >= 20)
        assert job.progress().total is None
    finally:
        caller.send_signal(signal.SIGKILL)
        caller.wait(60)
        if caller.stdout is not None:
            caller.stdout.close()
    result = job.result(60)
    assert not result.complete
    assert result.value == len(result.outcomes) == job.progress().total
    assert "The process that fed the items is gone" in str(result.error)


def test_a_caller_that_died_before_it_sent_anything_leaves_no_job_that_waits_for_ever(
    cluster: MapCluster, tmp_path: Path
) -> None:
    environment = {
        **cluster.server.environment,
        "PYTHONPATH": str(REPOSITORY),
        "HIVE_HEARTBEAT_INTERVAL": "0.3",
    }
    program = """
import time, hive
import tests.integration.map_skills as skills
def never():
    time.sleep(60)
    yield 1
print(hive.map(skills.square, never(), feed="thread").id, flush=True)
time.sleep(60)
"""
    caller = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert caller.stdout is not None
        job = hive.job(caller.stdout.readline().strip(), app=cluster.app)
    finally:
        caller.send_signal(signal.SIGKILL)
        caller.wait(60)
        if caller.stdout is not None:
            caller.stdout.close()
    result = job.result(60)
    assert (result.complete, len(result.outcomes)) == (False, 0)
    assert "before any of it was sent" in str(result.error)


def test_the_callers_memory_does_not_grow_with_the_job(cluster: MapCluster) -> None:
    process = psutil.Process()
    list(hive.map(skills.square, (number for number in range(2_000)), app=cluster.app))
    gc.collect()
    before = process.memory_info().rss
    peak = before
    count = 0
    job = hive.map(skills.square, (number for number in range(100_000)), "sum", app=cluster.app)
    for outcome in job:
        count += 1
        if outcome.index % 5_000 == 0:
            peak = max(peak, process.memory_info().rss)
    result = job.result(60)
    peak = max(peak, process.memory_info().rss)
    assert (count, len(result.outcomes), result.value) == (
        100_000,
        100_000,
        sum(number * number for number in range(100_000)),
    )
    assert peak - before < 20 << 20, f"grew by {(peak - before) >> 20} MB"


def test_an_endless_job_keeps_only_what_was_read_lately(
    cluster: MapCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive.jobs.answer.job.KEPT_BYTES", 200_000)
    job = hive.map(skills.echo, ("x" * 500 for _ in itertools.count()), app=cluster.app)
    state, indexes = cluster.key(job, "state"), set[int]()
    for outcome in job:
        indexes.add(outcome.index)
        # What is read in one go is dropped in one go, and that is much where others compute, too.
        enough = len(indexes) >= 4_000 and len(indexes) % 100 == 0
        if enough and client_of(cluster.app).redis.hexists(state, "trimmed"):
            break
    job.cancel()
    result = job.result(60)
    assert "were dropped after the job's caller had read them" in str(result.error)
    with cluster.server.client() as client:
        assert client.memory_usage(cluster.key(job, "outcomes"), samples=0) < 50_000_000
        first = client.xrange(cluster.key(job, "outcomes"), count=1)[0][1]
    assert int(first[b"first"]) > 500


ITEMS = 4_000


@pytest.fixture
def read_job(cluster: MapCluster, monkeypatch: pytest.MonkeyPatch) -> Job:
    """An iterator's job whose first outcomes were dropped behind its caller."""
    monkeypatch.setattr("hive.jobs.answer.job.KEPT_BYTES", 200_000)
    job = hive.map(skills.echo, ("x" * 1_500 for _ in range(ITEMS)), "count", app=cluster.app)
    assert len(by_index(iter(job))) == ITEMS
    assert client_of(cluster.app).redis.hexists(cluster.key(job, "state"), "trimmed")
    return job


def test_an_iteration_cannot_begin_with_outcomes_that_were_dropped(
    cluster: MapCluster, read_job: Job
) -> None:
    async def first(job: Job) -> None:
        async with aclosing(aiter(job)) as outcomes:
            await anext(outcomes)

    for job in (read_job, hive.job(read_job.id, app=cluster.app)):
        for ask in (lambda job=job: next(iter(job)), lambda job=job: asyncio.run(first(job))):
            with pytest.raises(
                OutcomesDroppedError, match=r"The first \d+ outcomes of job .* were"
            ):
                ask()
        left = by_index(job.remaining())
        assert 0 < len(left) < ITEMS
        assert max(left) == ITEMS - 1


def test_the_result_of_a_job_with_dropped_outcomes_is_whole(
    cluster: MapCluster, read_job: Job
) -> None:
    async def awaited(job: Job) -> JobResult:
        return await job

    for job in (read_job, hive.job(read_job.id, app=cluster.app)):
        for result in (job.result(10), asyncio.run(awaited(job))):
            assert (result.value, result.complete) == (ITEMS, True)
            assert 0 < len(result.outcomes) < ITEMS
            assert "were dropped after the job's caller had read them" in str(result.error)
        conclusion = job.wait(10)
        assert (conclusion.value, conclusion.error, conclusion.complete) == (ITEMS, None, True)
        assert conclusion.dropped == ITEMS - len(job.result(0).outcomes)


def test_a_reader_that_was_overtaken_by_the_dropping_is_told(
    cluster: MapCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive.jobs.answer.job.KEPT_BYTES", 200_000)
    job = hive.map(skills.echo, ("x" * 1_500 for _ in range(ITEMS)), "count", app=cluster.app)
    slow = iter(hive.job(job.id, app=cluster.app))
    next(slow)
    fast = job.result(60).outcomes
    assert len(by_index(iter(job))) == ITEMS
    with pytest.raises(OutcomesDroppedError):
        list(slow)
    assert len(fast) == ITEMS, "they were read before"


def test_outcomes_that_are_read_again_and_were_dropped_say_so(
    cluster: MapCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive.jobs.answer.job.KEPT_BYTES", 200_000)
    monkeypatch.setattr("hive.jobs.state.outcomes._KEPT_BYTES", 0)
    job = hive.map(skills.echo, ("x" * 1_500 for _ in range(ITEMS)), "count", app=cluster.app)
    outcomes = job.result(60).outcomes
    for _ in job:
        pass
    with pytest.raises(OutcomesDroppedError):
        list(outcomes)


def test_an_event_loop_too_drops_what_it_has_read(
    cluster: MapCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive.jobs.answer.job.KEPT_BYTES", 200_000)

    async def read(job: Job) -> int:
        return len([outcome async for outcome in job])

    job = hive.map(skills.echo, ("x" * 1_500 for _ in range(ITEMS)), "count", app=cluster.app)
    assert asyncio.run(read(job)) == ITEMS
    assert client_of(cluster.app).redis.hexists(cluster.key(job, "state"), "trimmed")


def test_who_goes_on_with_what_is_left_drops_it_in_turn(
    cluster: MapCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive.jobs.answer.job.KEPT_BYTES", 200_000)
    job = hive.map(skills.echo, ("x" * 500 for _ in itertools.count()), app=cluster.app)
    dropped = 0
    for _ in range(3):
        for number, _ in enumerate(job.remaining()):
            if number % 500 == 499 and job.wait(0).dropped > dropped:
                break
        dropped = job.wait(0).dropped
    assert dropped > 0
    job.cancel()
    left = len(job.result(60).outcomes)
    assert job.wait().dropped + left == job.progress().total
