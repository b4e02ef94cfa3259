"""Skills and tasks that are an `async def`; workers get them by `-I`."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from celery import Task, current_app, current_task, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel, Field

import hive
from hive.skills import skill


def write(log: str, text: str) -> None:
    with Path(log).open("a") as file:
        file.write(text)


class Wait(BaseModel):
    seconds: float = Field(0.0, ge=0)
    says: str = "well"


@skill("Wait a little", name="wait_a_little", intents=("wait a little",), input=Wait)
async def wait_a_little(seconds: float = 0.0, says: str = "well") -> str:
    await asyncio.sleep(seconds)
    return says


@shared_task
async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


@shared_task
async def add_up(values: list[int]) -> int:
    await asyncio.sleep(0)
    return sum(values)


@shared_task(bind=True)
async def whoami(self: Any) -> dict[str, Any]:
    await asyncio.sleep(0.001)
    return {"name": self.name, "id": self.request.id, "current": current_task.name}


class ByClass(Task):  # type: ignore[type-arg]
    name = "tests.by_class"

    async def run(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return [self.name, value]


_tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


class Within(Task):  # type: ignore[type-arg]
    """Flask's recipe."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = _tenant.set("somebody")
        try:
            return self.run(*args, **kwargs)
        finally:
            _tenant.reset(token)


class WithinSuper(Within):
    """The same, of which Celery's own `__call__` is the inner part."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = _tenant.set("somebody")
        try:
            return Task.__call__(self, *args, **kwargs)
        finally:
            _tenant.reset(token)


@shared_task(base=Within)
async def tenant() -> str:
    await asyncio.sleep(0)
    return _tenant.get()


@shared_task(base=WithinSuper)
async def tenant_of_super() -> str:
    await asyncio.sleep(0)
    return _tenant.get()


@shared_task
async def sets_and_sees(value: str) -> str:
    before = _tenant.get()
    _tenant.set(value)
    await asyncio.sleep(0)
    return before


@shared_task(bind=True, autoretry_for=(ConnectionError,), default_retry_delay=0, max_retries=2)
async def passes_at_last(self: Any) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise ConnectionError("not yet")
    return int(self.request.retries)


@shared_task(bind=True, max_retries=2)
async def retries_by_hand(self: Any) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@shared_task
async def fails() -> None:
    await asyncio.sleep(0)
    raise LookupError("nothing there")


@shared_task
async def leaves(code: int) -> None:
    await asyncio.sleep(0)
    sys.exit(code)


@shared_task
async def loop_of() -> list[int]:
    """The process, the thread and the loop."""
    return [os.getpid(), threading.get_ident(), id(asyncio.get_running_loop())]


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


@shared_task
@decorated
async def under_a_decorator() -> str:
    await asyncio.sleep(0)
    return "well"


def undercover(function: Callable[..., Any]) -> Callable[..., Any]:
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


@shared_task(name="tests.under_cover")
@undercover
async def under_cover() -> str:
    await asyncio.sleep(0)
    return "well"


class Parcel(BaseModel):
    content: str
    day: int = 1


@shared_task(pydantic=True)
async def pack(parcel: Parcel) -> Parcel:
    await asyncio.sleep(0)
    return Parcel(content=parcel.content * 2)


@shared_task(soft_time_limit=1, time_limit=60)
async def tidies_up(log: str, how: str) -> str:
    """Waits for long, and says what it was told."""
    try:
        await WAITS[how]()
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0.01)
        return "told"
    except BaseException as error:  # noqa: BLE001
        return f"told otherwise: {error!r}"
    finally:
        await asyncio.sleep(0)
        write(log, "tidied")
    return "finished"


async def _tasks() -> None:
    await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))


async def _group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))


async def _busy() -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.01)  # noqa: ASYNC251 - as careless code does


async def _busy_tasks() -> None:
    await asyncio.gather(_busy(), return_exceptions=True)


WAITS: dict[str, Callable[[], Any]] = {
    "sleeps": lambda: asyncio.sleep(60),
    "in tasks": _tasks,
    "in a group": _group,
    "in a timeout": lambda: asyncio.wait_for(asyncio.sleep(60), 50),
    "busy": _busy,
    "busy in tasks": _busy_tasks,
}


@shared_task(soft_time_limit=1, time_limit=2)
async def stubborn() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except BaseException:  # noqa: BLE001
            continue


@shared_task
async def leaves_behind(log: str) -> str:
    """Leaves a task running, and an async generator halfway."""

    async def goes_on() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            write(log, "task ended\n")

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            write(log, "generator ended\n")

    _left.append(asyncio.create_task(goes_on()))
    await asyncio.sleep(0)
    async for _ in numbers():
        break
    return "done"


_left: list[asyncio.Task[None]] = []


@shared_task
async def others_here() -> int:
    """How many tasks there are in its loop, besides its own."""
    return len(asyncio.all_tasks()) - 1


@shared_task
async def asks_in_place(number: int) -> int:
    """Celery's `apply` inside of a coroutine."""
    await asyncio.sleep(0)
    return int(double.apply((number,)).result)


@shared_task
async def awaits_another(number: int) -> int:
    return int(await double(number)) + 1


@shared_task(bind=True)
async def awaits_itself(self: Any, number: int) -> int:
    return number + (await self(number - 1) if number else 0)


current_app.register_task(ByClass())


@shared_task(soft_time_limit=1)
async def sleeps_long(log: str) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        write(log, "tidied")


@shared_task
async def awaits_a_map(numbers: int) -> Any:
    return (await hive.map(double, range(numbers), "sum")).value


@shared_task
async def blocks_on_a_map(numbers: int) -> Any:
    return hive.map(double, range(numbers), "sum").result(60).value


@shared_task(soft_time_limit=1)
def maps_what_waits(log: str) -> str:
    """Interrupted while an item of its own map waits, in its slot."""
    job = hive.map(waits_for_ever, [1])
    try:
        job.result(60)
    except SoftTimeLimitExceeded:
        write(log, "told")
        job.cancel()
        return "told"
    return "finished"


@shared_task(soft_time_limit=1)
async def awaits_what_waits(log: str) -> str:
    return maps_what_waits.run(log)


_at_once = 0


@shared_task(bind=True, soft_time_limit=2)
async def page(self: Any, number: int) -> list[Any]:
    """Reads a page, as it were. Says how many were read at that time, and what it knows of itself.

    Every tenth fails, the fourth does not come, and the fifth computes.
    """
    global _at_once  # noqa: PLW0603
    _at_once += 1
    try:
        if number == 4:
            await asyncio.sleep(60)
        await asyncio.sleep(0.3)
        if number % 10 == 9:
            raise ConnectionError(f"no page {number}")
        return [number, _at_once, self.request.id, current_task.name]
    finally:
        _at_once -= 1


@shared_task(base=Within, autoretry_for=(ConnectionError,))
async def page_of_tenant(number: int) -> str:
    await asyncio.sleep(0.05)
    return f"{_tenant.get()} {number}"


@shared_task
async def waits_for_ever(number: int) -> None:
    await asyncio.sleep(600)


@shared_task
async def writes_that_it_began(log: str) -> None:
    write(log, "x")
    await asyncio.sleep(1)


@shared_task
async def leaves_at_three(number: int) -> int:
    await asyncio.sleep(0.2)
    if number == 3:
        sys.exit(number)
    await asyncio.sleep(0.2)
    return number


@shared_task
async def leaves_in_a_task_of_its_own(number: int) -> int:
    await asyncio.gather(leaves_at_three.run(number))
    return number


@shared_task
async def sends_on(number: int) -> Any:
    """Sends a task, and maps, from a task that is no method."""
    double.delay(number)
    return (await hive.map(double, range(number), "sum")).value
