"""What the tests of hive.map run; workers get it by `-I tests.integration.map_skills`."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from celery import current_task, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_process_init
from pydantic import BaseModel, Field

import hive
from hive.skills import skill


@shared_task
def square(number: int) -> int:
    return number * number


@shared_task
def echo(value: Any) -> Any:
    return value


@shared_task(bind=True)
def under_one_request(self: Any, _: int) -> int:
    """How many items were run under this request, with this one."""
    self.request.items_seen = getattr(self.request, "items_seen", 0) + 1
    return int(self.request.items_seen)


@shared_task
def traced(number: int) -> int:
    return number


@worker_process_init.connect
def _trace(**_: Any) -> None:
    """As some tracers do: around the function of the task, in each process."""
    run = traced.run

    @functools.wraps(run)
    def around(*args: Any, **kwargs: Any) -> list[Any]:
        return ["traced", run(*args, **kwargs)]

    traced.run = around  # type: ignore[method-assign]


@shared_task
def named(**values: Any) -> dict[str, Any]:
    return values


@shared_task
def arguments(*args: Any, **kwargs: Any) -> list[Any]:
    """What it was called with. It spoils a list that it is given by name."""
    said = [list(args), {**kwargs, "seen": list(kwargs.get("seen", ()))}]
    kwargs.get("seen", []).append("spoilt")
    return said


@shared_task
def joined(values: list[Any], separator: str = ",") -> str:
    return separator.join(map(str, values))


@shared_task
def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@shared_task
def slow_echo(value: Any) -> Any:
    time.sleep(0.02)
    return value


@shared_task(bind=True)
def whoami(self: Any, value: Any) -> dict[str, Any]:
    assert self.request.args == (value,), self.request.args
    return {
        "task": self.name,
        "id": self.request.id,
        "host": self.request.hostname,
        "current": current_task.name,
    }


@shared_task
def picky(number: int) -> Any:
    """Fails in every way that an item can fail without ending its process."""
    match number % 10:
        case 1:
            raise ValueError(f"no {number}")
        case 2:
            return {1, 2}
        case 3:
            sys.exit(3)
        case 4:
            return date(2024, 2, 29)
    return number


@shared_task
def kill_once(item: tuple[str, int]) -> int:
    """Item 50 kills its process the first time it runs."""
    marker, number = item
    if number == 50 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.005)
    return number


@shared_task
def poison_item(number: int) -> int:
    if number == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.002)
    return number


@shared_task
def gated(item: tuple[int, str | None]) -> int:
    """Waits for the file that it is given, 60 s at most; without one it takes a millisecond."""
    number, go = item
    end = time.monotonic() + 60
    while go is not None and not Path(go).exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.001)
    return number


@shared_task
def marked(item: tuple[str, int, float]) -> int:
    """Says in a directory that it began, then takes its time."""
    directory, number, seconds = item
    Path(directory, str(number)).touch()
    time.sleep(seconds)
    return number


@shared_task(soft_time_limit=1)
def stubborn(seconds: float) -> str:
    """Goes on when it is told to stop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.05)
        except Exception:  # noqa: BLE001
            continue
    return "finished"


@shared_task
def longest(values: list[str]) -> str:
    return max(values, key=len, default="")


@shared_task
def first_and_last(values: list[Any]) -> list[Any]:
    return [values[0], values[-1], len(values)]


@shared_task
def slow_reduce(values: list[str]) -> int:
    """Says that it began by one byte, then takes its time."""
    with Path(values[0]).open("a") as log:
        log.write("x")
    time.sleep(2)
    return len(values)


@shared_task
def failing_reduce(values: list[Any]) -> None:
    raise RuntimeError(f"cannot reduce {len(values)}")


@shared_task
def killing_reduce(values: list[Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class ScaleInput(BaseModel):
    value: float
    factor: float = Field(2.0, gt=0)


@skill("Multiply a number", name="scale", input=ScaleInput)
def scale(value: float, factor: float = 2.0) -> float:
    return value * factor


@shared_task(soft_time_limit=1)
def limited(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _too_long(*_: object) -> None:
    raise TimeoutError("the item's own alarm")


def _fail(_: object) -> None:
    raise ValueError("with an alarm set")


ALARMS: dict[str, Callable[[Any], object]] = {
    "restores": lambda before: (signal.alarm(0), signal.signal(signal.SIGALRM, before)),
    "leaves all": lambda _: None,
    "restores the handler alone": lambda before: signal.signal(signal.SIGALRM, before),
    "leaves it to the default": lambda _: signal.signal(signal.SIGALRM, signal.SIG_DFL),
    "leaves it ignored": lambda _: signal.signal(signal.SIGALRM, signal.SIG_IGN),
    "stops the timer": lambda _: signal.setitimer(signal.ITIMER_REAL, 0),
    "rings again and again": lambda _: signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5),
    "blocks it": lambda _: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM}),
    "blocks all": lambda _: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
    "fails": _fail,
}
"""What items do with an alarm that they have set."""


@shared_task(soft_time_limit=1)
def alarming(what: float | str) -> str:
    """Uses the alarm in one of those ways, or sleeps."""
    if not isinstance(what, str):
        time.sleep(what)
        return "slept"
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(2)
    time.sleep(0.01)
    ALARMS[what](before)
    return what


@shared_task
def alarm_then_file(what: str) -> str:
    """Uses the alarm, or makes a file and sleeps."""
    if what in ALARMS:
        return str(alarming.run(what))
    Path(what).touch()
    time.sleep(60)
    return "slept"


@shared_task(soft_time_limit=1)
def alarm_and_sleep(seconds: float) -> float:
    """As a decorator that guards too loosely."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(30)
    try:
        time.sleep(seconds)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return seconds


@shared_task(soft_time_limit=1)
def tidies_up(seconds: float) -> str:
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "tidied"
    return "finished"


@shared_task
def sum_of_squares(numbers: int) -> Any:
    return hive.map(square, range(numbers), "sum").result(60).value


@shared_task
def refused() -> None:
    raise ConnectionError("somewhere else")
