"""What the tests of hive.map run; workers get it by `-I tests.integration.map_skills`."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from celery import current_task, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel, Field

import hive
from hive.skills import skill


@shared_task
def square(number: int) -> int:
    return number * number


@shared_task
def echo(value: Any) -> Any:
    return value


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


@shared_task(bind=True, max_retries=5)
def retries_itself(self: Any, value: Any) -> None:
    try:
        raise ValueError("again")
    except ValueError as error:
        raise self.retry(exc=error) from error


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
