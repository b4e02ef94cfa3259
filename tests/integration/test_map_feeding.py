"""Who reads the iterator that feeds a job: the thread that asks, and what holds there."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import hive
from hive.errors import InvalidInputError
from hive.jobs.answer.job import Job, JobResult
from tests.harness import wait_until
from tests.integration import map_skills as skills
from tests.integration.cluster import REPOSITORY
from tests.integration.map_cluster import MapCluster, by_index, map_cluster

tenant = contextvars.ContextVar("tenant", default="nobody")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MapCluster]:
    with map_cluster(
        tmp_path_factory.mktemp("map"), "one", "two", hive_heartbeat_interval=0.3
    ) as cluster:
        yield cluster


class Reader:
    """An input that notes where it was read, and whether it was closed."""

    def __init__(self, items: int, pause: float = 0.0) -> None:
        self.items = items
        self.pause = pause
        self.taken = 0
        self.seen = set[tuple[int, str]]()
        self.closed: int | None = None

    def read(self) -> Iterator[int]:
        try:
            for number in range(self.items):
                self.taken = number + 1
                self.seen.add((threading.get_ident(), tenant.get()))
                if self.pause:
                    time.sleep(self.pause)
                yield number
        finally:
            self.closed = threading.get_ident()

    async def read_async(self) -> AsyncIterator[int]:
        for number in self.read():
            await asyncio.sleep(self.pause)
            yield number


def iterated(job: Job) -> None:
    assert len(by_index(iter(job))) == 3_000


def awaited(job: Job) -> None:
    assert len(job.result(60).outcomes) == 3_000


def polled(job: Job) -> None:
    wait_until(lambda: job.progress().over, what="all items are done")


@pytest.mark.parametrize("ask", [iterated, awaited, polled])
def test_an_iterator_is_read_by_the_thread_that_asks(
    cluster: MapCluster, ask: Callable[[Job], None]
) -> None:
    reader = Reader(3_000)
    token = tenant.set("acme")
    try:
        ask(hive.map(skills.square, reader.read(), app=cluster.app))
    finally:
        tenant.reset(token)
    assert reader.seen == {(threading.get_ident(), "acme")}
    assert reader.closed == threading.get_ident()


def test_rows_of_an_open_transaction_are_mapped(cluster: MapCluster) -> None:
    database = sqlite3.connect(":memory:")
    database.execute("create table numbers (n integer)")
    database.executemany("insert into numbers values (?)", ((n,) for n in range(1_000)))
    rows = database.execute("select n from numbers")
    result = hive.map(skills.echo, rows, "count", app=cluster.app).result(60)
    assert (result.value, result.error, result.complete) == (1_000, None, True)
    database.rollback()
    assert rows.fetchall() == [], "the cursor is the caller's, and stays open"
    database.close()


def test_map_reads_one_window_at_most(cluster: MapCluster) -> None:
    reader = Reader(1_000_000)
    job = hive.map(skills.pause, (0.2 for _ in reader.read()), app=cluster.app)
    assert 4 <= reader.taken <= 16
    job.cancel()
    began = time.monotonic()
    assert job.result(60).complete
    assert time.monotonic() - began < 4, "nobody ended it"


def test_map_returns_before_a_slow_iterator_has_filled_the_window(cluster: MapCluster) -> None:
    reader = Reader(10, pause=0.08)
    job = hive.map(skills.square, reader.read(), "sum", app=cluster.app)
    assert 1 <= reader.taken <= 3
    assert job.result(60).value == sum(n * n for n in range(10))


def test_an_item_of_a_slow_iterator_does_not_wait_for_the_next(cluster: MapCluster) -> None:
    jobs: list[Job] = []

    def slow() -> Iterator[int]:
        yield 0
        time.sleep(0.15)  # so long that `map` returns, and the job is known
        yield 1
        other = hive.job(jobs[0].id, app=cluster.app)
        wait_until(lambda: other.progress().completed == 2, what="both items are done")
        yield 2

    jobs.append(hive.map(skills.square, slow(), app=cluster.app))
    assert len(jobs[0].result(60).outcomes) == 3


def test_an_event_loop_reads_an_iterator_in_its_own_thread(cluster: MapCluster) -> None:
    async def use(ask: Callable[[Job], Any]) -> None:
        tenant.set("acme")
        reader = Reader(1_000)
        await ask(hive.map(skills.square, reader.read(), app=cluster.app))
        assert reader.taken == 1_000
        assert reader.seen == {(threading.get_ident(), "acme")}

    async def iterate(job: Job) -> None:
        assert len([outcome async for outcome in job]) == 1_000

    async def wait(job: Job) -> None:
        assert len((await job).outcomes) == 1_000

    for ask in (iterate, wait):
        asyncio.run(use(ask))


def test_an_async_iterable_is_read_by_the_loop_that_asks(cluster: MapCluster) -> None:
    tasks = set[Any]()

    async def items(reader: Reader) -> AsyncIterator[int]:
        async for number in reader.read_async():
            tasks.add(asyncio.current_task())
            yield number

    async def use(pause: float, count: int) -> JobResult:
        tenant.set("acme")
        reader = Reader(count, pause)
        job = hive.map(skills.square, items(reader), "sum", app=cluster.app)
        seen = [outcome.index async for outcome in job]
        assert sorted(seen) == list(range(count))
        assert reader.seen == {(threading.get_ident(), "acme")}
        return await job

    for pause, count in ((0.0, 5_000), (0.02, 20)):
        tasks.clear()
        result = asyncio.run(use(pause, count))
        assert (result.value, result.error) == (sum(n * n for n in range(count)), None)
        assert len(tasks) == 1, "an input may be bound to its task"


def test_outcomes_come_while_an_async_iterable_waits(cluster: MapCluster) -> None:
    async def use() -> list[int]:
        seen = asyncio.Event()

        async def items() -> AsyncIterator[int]:
            yield 1
            await asyncio.wait_for(seen.wait(), 60)
            yield 2

        values = []
        async for outcome in hive.map(skills.square, items(), app=cluster.app):
            values.append(outcome.value)
            seen.set()
        return values

    assert asyncio.run(use()) == [1, 4]


def test_an_async_iterable_that_raises_ends_the_job_with_what_was_sent(cluster: MapCluster) -> None:
    async def breaks() -> AsyncIterator[int]:
        yield 1
        raise OSError("the socket is gone")

    async def use() -> JobResult:
        return await hive.map(skills.square, breaks(), "sum", app=cluster.app)

    result = asyncio.run(use())
    assert (result.value, result.complete) == (1, False)
    assert "after 1 items: OSError: the socket is gone" in str(result.error)


def test_an_async_iterable_ends_with_its_event_loop(cluster: MapCluster) -> None:
    async def endless() -> AsyncIterator[int]:
        for number in itertools.count():
            yield number
            await asyncio.sleep(0.01)

    async def use() -> Job:
        job = hive.map(skills.square, endless(), "count", app=cluster.app)
        async with aclosing(aiter(job)) as outcomes:
            await anext(outcomes)
        return job

    result = asyncio.run(use()).result(60)
    assert not result.complete
    assert "The input was interrupted after" in str(result.error)


def test_who_blocks_cannot_read_an_async_iterable(cluster: MapCluster) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    job = hive.map(skills.square, items(), app=cluster.app)
    with pytest.raises(InvalidInputError, match="use `async for` or `await`"):
        job.result(60)
    job.cancel()

    result = hive.map(skills.square, items(), "sum", feed="thread", app=cluster.app).result(60)
    assert (result.value, result.error) == (1, None)


def test_a_feeding_thread_has_the_callers_context(cluster: MapCluster) -> None:
    reader = Reader(100)
    token = tenant.set("acme")
    job = hive.map(skills.square, reader.read(), "count", feed="thread", app=cluster.app)
    tenant.reset(token)
    wait_until(lambda: hive.job(job.id, app=cluster.app).progress().over, what="nobody has to ask")
    ((thread, name),) = reader.seen
    assert (name, thread == threading.get_ident()) == ("acme", False)
    assert reader.closed == thread


def test_feed_is_one_of_two_words(cluster: MapCluster) -> None:
    with pytest.raises(InvalidInputError, match="feed is"):
        hive.map(skills.square, iter([1]), feed="process")  # type: ignore[arg-type]


def test_a_job_that_nobody_asks_ends_with_what_was_sent_and_says_so(
    cluster: MapCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive.jobs.input.sender.patience", lambda _: 1.0)
    reader = Reader(1_000_000)
    job = hive.map(skills.square, reader.read(), "count", app=cluster.app)
    for _ in job:
        break
    other = hive.job(job.id, app=cluster.app)
    result = other.result(60)
    assert "Nobody asked for the job's outcomes for 1 s" in str(result.error)
    assert not result.complete
    assert result.value == reader.taken == other.progress().total
    assert reader.closed is None, "the generator is the reading thread's to close"
    assert job.result(60).value == result.value
    assert reader.closed == threading.get_ident()


def test_who_takes_long_over_an_outcome_is_asking(
    cluster: MapCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive.jobs.input.sender.patience", lambda _: 0.5)
    job = hive.map(skills.square, iter(range(1_000)), "count", app=cluster.app)
    for number, _ in enumerate(job):
        if not number:
            time.sleep(1.5)
    result = job.result(60)
    assert (result.value, result.error) == (1_000, None)


def test_who_looks_now_and_then_is_asking(
    cluster: MapCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive.jobs.input.sender.patience", lambda _: 1.0)
    job = hive.map(skills.square, iter(range(200)), "count", chunk=1, app=cluster.app)
    while not job.progress().over:
        time.sleep(0.2)
    assert (job.result(60).value, job.result(60).error) == (200, None)


def test_an_iteration_that_was_broken_off_goes_on_with_the_input(cluster: MapCluster) -> None:
    job = hive.map(skills.square, iter(range(2_000)), app=cluster.app)
    for outcome in job:
        if outcome.index >= 10:
            break
    assert len(by_index(iter(job))) == 2_000


def test_two_threads_iterate_over_a_job_and_one_reads_at_a_time(cluster: MapCluster) -> None:
    reader = Reader(3_000)
    job = hive.map(skills.square, reader.read(), app=cluster.app)
    counts: list[int] = []

    def iterate() -> None:
        counts.append(len(by_index(iter(job))))

    threads = [threading.Thread(target=iterate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counts == [3_000, 3_000]
    assert job.result(60).error is None


def test_a_thread_that_only_looks_does_not_read_for_the_one_that_asks(cluster: MapCluster) -> None:
    reader = Reader(200, pause=0.002)
    job = hive.map(skills.square, reader.read(), app=cluster.app)
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.001):
            job.progress()

    stream = iter(job)
    next(stream)
    looker = threading.Thread(target=look)
    looker.start()
    rest = list(stream)
    stop.set()
    looker.join(60)
    assert len(rest) == 199
    assert {thread for thread, _ in reader.seen} == {threading.get_ident()}


def test_an_input_may_look_at_its_own_job(cluster: MapCluster) -> None:
    jobs: list[Job] = []

    def looking() -> Iterator[int]:
        for number in range(100):
            if jobs:
                jobs[0].progress()
            yield number

    jobs.append(hive.map(skills.square, looking(), "count", app=cluster.app))
    assert jobs[0].result(60).value == 100


def test_an_interrupted_input_ends_the_job_with_what_was_sent_and_says_so(
    cluster: MapCluster,
) -> None:
    def interrupted() -> Iterator[int]:
        yield from range(500)
        raise KeyboardInterrupt

    job = hive.map(skills.square, interrupted(), "count", app=cluster.app)
    with pytest.raises(KeyboardInterrupt):
        job.result(60)
    result = job.result(60)
    assert (result.value, result.complete) == (500, False)
    assert "The input was interrupted after 500 items: KeyboardInterrupt" in str(result.error)


def test_a_stopped_jobs_generator_is_closed_by_the_thread_that_asks(cluster: MapCluster) -> None:
    reader = Reader(1_000_000)
    job = hive.map(skills.square, reader.read(), app=cluster.app)
    next(iter(job))
    job.cancel()
    job.result(60)
    assert reader.closed == threading.get_ident()


def test_waiting_for_a_result_ends_in_time_while_it_reads(cluster: MapCluster) -> None:
    job = hive.map(skills.square, itertools.count(), app=cluster.app)
    began = time.monotonic()
    result = job.result(1.0)
    assert 0.9 < time.monotonic() - began < 5.0
    assert not result.complete
    assert len(result.outcomes) > 100
    job.cancel()


def test_outcomes_that_are_there_do_not_wait_for_a_slow_input(cluster: MapCluster) -> None:
    def slow_at_the_end() -> Iterator[int]:
        yield from range(200)
        for number in range(200, 205):
            time.sleep(0.5)
            yield number

    job = hive.map(skills.square, slow_at_the_end(), app=cluster.app)
    began = time.monotonic()
    for count, _ in enumerate(job):
        if count == 199:
            assert time.monotonic() - began < 2.4, "they waited for the slow items"


def test_a_short_iterator_is_sent_when_map_returns(cluster: MapCluster, tmp_path: Path) -> None:
    program = """
import hive, os
import tests.integration.map_skills as skills
print(hive.map(skills.square, (n for n in range(10)), "sum").id, flush=True)
os._exit(0)
"""
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**cluster.server.environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    result = hive.job(said.stdout.strip(), app=cluster.app).result(60)
    assert (result.value, result.complete) == (sum(n * n for n in range(10)), True)
