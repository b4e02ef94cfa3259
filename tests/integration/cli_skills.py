"""Skills that the command line's tests call; their spores get them by `-I`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from celery import shared_task

from hive.skills import skill


@skill("Double a number", name="double")
def double(number: int) -> int:
    return 2 * number


@skill("Return what it was given", name="mirror")
def mirror(value: Any) -> Any:
    return value


@skill("Return what is no number, among numbers", name="not_numbers")
def not_numbers(number: float) -> dict[str, Any]:
    return {"mean": float("nan"), "all": [float("-inf"), number]}


@skill("Raise an error", name="fail")
def fail(text: str) -> None:
    raise ValueError(text)


@skill("Say that it began in one file, and wait for another", name="hold")
def hold(path: str) -> str:
    Path(path).touch()
    end = time.monotonic() + 30
    while not Path(f"{path}.go").exists() and time.monotonic() < end:
        time.sleep(0.02)
    return "let go"


@skill("Return what JSON cannot hold", name="unwritable")
def unwritable(_item: Any) -> Any:
    return object()


@shared_task(name="plain.square")
def square(number: int) -> int:
    """A task that is no skill."""
    return number * number
