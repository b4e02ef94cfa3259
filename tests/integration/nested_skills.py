"""Tasks that map over the hive that they run in, and wait; workers get them by
`-I tests.integration.nested_skills`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import current_task, shared_task
from celery.exceptions import SoftTimeLimitExceeded

import hive
from hive import coroutines
from tests.integration.jobs import wait_for  # noqa: F401 the workers are to know it
from tests.integration.map_skills import echo, first_and_last, marked, pause, slow_echo, square


def _meet(directory: str, tasks: int) -> None:
    """Go on once so many tasks run."""
    Path(directory, f"met-{os.getpid()}-{threading.get_ident()}").touch()
    end = time.monotonic() + 30
    while len(list(Path(directory).glob("met-*"))) < tasks:
        assert time.monotonic() < end, "the tasks of this test are to run at the same time"
        time.sleep(0.01)


@shared_task
def waits(how: str, directory: str, tasks: int) -> Any:
    """Maps and waits in one of the ways, while so many tasks do."""
    _meet(directory, tasks)
    return WAYS[how]()


def _looks_again_and_again() -> int:
    job = hive.map(square, range(20), "sum")
    while not job.result(timeout=0).complete:
        time.sleep(0.01)
    return int(job.result().value)


@shared_task(bind=True, autoretry_for=(ValueError,), default_retry_delay=0.1)
def fails_first(self: Any, number: int) -> int:
    if not self.request.retries:
        raise ValueError(number)
    return number * number


def _polls() -> int:
    job = hive.map(square, range(20), "sum")
    while not job.progress().over:
        time.sleep(0.01)
    return int(job.result().value)


def _cancels() -> list[str]:
    job = hive.map(square, range(20))
    job.cancel()
    return sorted({outcome.status for outcome in job.result().outcomes})


def _has_a_deadline() -> list[Any]:
    result = hive.map(pause, [0.0, 60.0, 60.0, 60.0], "count", timeout=1).result()
    return [result.value, [outcome.status for outcome in result.outcomes]]


WAYS: dict[str, Callable[[], Any]] = {
    "result": lambda: hive.map(square, range(20), "sum").result().value,
    "for": lambda: sorted(outcome.value for outcome in hive.map(square, range(20))),
    "await": lambda: asyncio.run(_awaits()),
    "async for": lambda: asyncio.run(_iterates()),
    "looks again and again": _looks_again_and_again,
    "polls its progress": _polls,
    "retries": lambda: hive.map(fails_first, range(20), "sum").result().value,
    "an iterator": lambda: hive.map(square, iter(range(20)), "sum").result().value,
    "opened by its id": lambda: hive.job(hive.map(square, range(20), "sum").id).result().value,
    "a reduce task": lambda: hive.map(square, range(20), first_and_last).result().value,
    "cancels": _cancels,
    "a deadline": _has_a_deadline,
    "an async skill": lambda: hive.map(square_soon, range(20), "sum").result().value,
    "nothing": lambda: hive.map(square, [], "sum").result().value,
}


async def _awaits() -> Any:
    return (await hive.map(square, range(20), "sum")).value


async def _iterates() -> Any:
    return sorted([outcome.value async for outcome in hive.map(square, range(20))])


@shared_task
def tree(depth: int) -> int:
    """Counts the leaves of a tree, of two branches each."""
    if not depth:
        return 1
    result = hive.map(tree, [depth - 1] * 2, "sum").result()
    assert all(outcome.status == "ok" for outcome in result.outcomes), list(result.outcomes)
    return int(result.value)


@shared_task
def maps_elsewhere(wanted: dict[str, Any]) -> list[str | None]:
    """Says where the items of its map ran, which demand that of their node."""
    job = hive.map(echo, range(4), requirements=wanted)
    return [outcome.node for outcome in job.result().outcomes]


@shared_task(bind=True)
def keeps_its_request(self: Any, numbers: int) -> list[Any]:
    """Says who it is before, amid and after."""

    def who() -> list[Any]:
        return [self.request.id, self.request.args, current_task.name]

    seen = [who()]
    for outcome in hive.map(echo, range(numbers)):
        assert outcome.status == "ok", outcome
        seen.append(who())
    return [len(seen), [self.request.id, [numbers], self.name], seen]


@shared_task(soft_time_limit=2)
def runs_out_of_time(directory: str, how: str) -> str:
    """Waits for more than it has time for; what it works on may catch all that is raised."""
    coroutines.run(asyncio.sleep(0))  # as in a process that has run a coroutine before
    items = [[directory, number, 20.0] for number in range(2)]
    job = hive.map(LONG[how], items)
    Path(directory, "job").write_text(job.id)
    try:
        job.result()
    except SoftTimeLimitExceeded:
        return "interrupted"
    return "not interrupted"


@shared_task
async def waits_beside(item: tuple[str, int, float]) -> int:
    """As `marked`, asynchronously."""
    directory, number, seconds = item
    Path(directory, str(number)).touch()  # noqa: ASYNC240
    await asyncio.sleep(seconds)
    return number


@shared_task
async def square_soon(number: int) -> int:
    await asyncio.sleep(0.001)
    return number * number


@shared_task
async def async_waits(how: str, directory: str, tasks: int) -> Any:
    """As `waits`, asynchronously."""
    await asyncio.to_thread(_meet, directory, tasks)
    skill = square if how.startswith("sync") else square_soon
    if how.endswith("result"):
        return hive.map(skill, range(20), "sum").result().value
    return (await hive.map(skill, range(20), "sum")).value


@shared_task
def catches_all(item: tuple[str, int, float]) -> str:
    directory, number, seconds = item
    Path(directory, str(number)).touch()
    end = time.monotonic() + seconds
    with contextlib.suppress(Exception):
        while time.monotonic() < end:
            time.sleep(0.05)
    return "caught"


@shared_task
def has_an_alarm(directory: str) -> str:
    """Guards its map by an alarm of its own."""

    def ring(*_: object) -> None:
        raise TimeoutError("the task's own alarm")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        job = hive.map(uses_the_alarm, [[directory, number, 20.0] for number in range(2)])
        Path(directory, "job").write_text(job.id)
        job.result()
    except TimeoutError as error:
        return str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return "not interrupted"


@shared_task
def uses_the_alarm(item: tuple[str, int, float]) -> None:
    """Takes the alarm the first time, and then its time."""
    directory, number, seconds = item
    if not Path(directory, "taken").exists():
        Path(directory, "taken").touch()
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.alarm(5)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        return
    Path(directory, str(number)).touch()
    time.sleep(seconds)


@shared_task
def maps_marked(item: tuple[str, float]) -> str:
    """Maps items that leave a mark and take so long; writes down its job."""
    directory, seconds = item
    job = hive.map(marked, [[directory, number, seconds] for number in range(4)])
    Path(directory, "job").write_text(job.id)
    job.result()
    return job.id


@shared_task
def maps_slowly(directory: str, items: int) -> int:
    """Writes down its job."""
    job = hive.map(slow_echo, range(items), "sum")
    Path(directory, "job").write_text(job.id)
    return int(job.result().value)


@shared_task
def dies_helping(directory: str) -> list[Any]:
    """Maps items of which one kills the process that runs it, the first time."""
    job = hive.map(kills_once, [[directory, number] for number in range(20)])
    Path(directory, f"job-{time.time()}").write_text(job.id)
    return sorted([outcome.value, outcome.status] for outcome in job.result().outcomes)


@shared_task
def kills_once(item: tuple[str, int]) -> int:
    directory, number = item
    if number == 10 and not Path(directory, "killed").exists():
        Path(directory, "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.005)
    return number


@shared_task
def dies_beside_another(directory: str) -> str:
    """Maps two items, and dies under the one that it runs itself; its second run maps nothing."""
    if Path(directory, "job").exists():
        return "again"
    Path(directory, "pid").write_text(str(os.getpid()))
    job = hive.map(kills_who_waits, [[directory, number] for number in range(2)])
    Path(directory, "job").write_text(job.id)
    job.result()
    return "not killed"


@shared_task
def kills_who_waits(item: tuple[str, int]) -> int:
    """Once both items run, kills the process of the task that waits; elsewhere waits for a file."""
    directory, number = item
    Path(directory, f"run-{number}-{os.getpid()}").touch()
    end = time.monotonic() + 30
    while len(list(Path(directory).glob("run-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    if str(os.getpid()) == Path(directory, "pid").read_text():
        os.kill(os.getpid(), signal.SIGKILL)
    while not Path(directory, "go").exists() and time.monotonic() < end:
        time.sleep(0.01)
    return number


LONG = {"raised": marked, "swallowed by the item": catches_all, "async": waits_beside}


@shared_task(soft_time_limit=1)
def limited_here(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@shared_task
def maps_limited(seconds: list[float]) -> list[str]:
    return [outcome.status for outcome in hive.map(limited_here, seconds).result().outcomes]


@shared_task
def asks_in_threads(directory: str, tasks: int) -> list[int]:
    """Several threads of a task map and wait."""
    _meet(directory, tasks)
    values: list[int] = []

    def ask() -> None:
        values.append(hive.map(square, range(9), "sum").result(30).value)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return values
