"""Tasks that end in unusual ways; workers get them by `-I tests.integration.ends`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from celery import Task, shared_task
from celery.exceptions import (
    Reject,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)


class Exit(SystemExit):
    """A program's own."""


class Halt(BaseException):
    """No Exception."""


class Within(Task):  # type: ignore[type-arg]
    """Flask's recipe: what runs is run inside of something."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


@click.command()
@click.option("--wrong", is_flag=True)
def tool(wrong: bool) -> None:
    if wrong:
        raise click.ClickException("went wrong")


WAYS: dict[str, Callable[[], object]] = {
    "0": lambda: sys.exit(0),
    "nothing": sys.exit,
    "click": lambda: tool([]),
    "3": lambda: sys.exit(3),
    "text": lambda: sys.exit("cannot go on"),
    "own": lambda: throw(Exit(4)),
    "click failed": lambda: tool(["--wrong"]),
    "argparse": lambda: argparse.ArgumentParser("tool").parse_args(["--unknown"]),
    "interrupt": lambda: throw(KeyboardInterrupt()),
    "generator": lambda: throw(GeneratorExit()),
    "cancelled": lambda: throw(asyncio.CancelledError()),
    "halt": lambda: throw(Halt("here")),
}


def throw(error: BaseException) -> None:
    raise error


def leave(how: str) -> Any:
    """End in that way."""
    WAYS.get(how, lambda: None)()
    return how


@shared_task
def leaves(log: str, how: str) -> Any:
    with Path(log).open("a") as ran:
        ran.write("x")
    return leave(how)


@shared_task(base=Within)
def leaves_within(log: str, how: str) -> Any:
    return leaves.run(log, how)


@shared_task(autoretry_for=(Exception,), default_retry_delay=0)
def leaves_and_retries(log: str, how: str) -> Any:
    return leaves.run(log, how)


RAISED = {
    kind.__name__: kind for kind in (MemoryError, WorkerLostError, TimeLimitExceeded, Terminated)
}


@shared_task
def raises(log: str, kind: str) -> None:
    with Path(log).open("a") as ran:
        ran.write("x")
    raise RAISED[kind]("as another task did")


@shared_task
def leaves_as_item(how: str) -> Any:
    return leave(how)


@shared_task
def leaves_as_reduce(values: list[str]) -> Any:
    return leave(values[0].removeprefix("then "))


@shared_task
def dies(number: int) -> None:
    os.kill(os.getpid(), number)


@shared_task
def ends(code: int) -> None:
    os._exit(code)


@shared_task
def rejects() -> None:
    raise Reject("no use", requeue=True)


@shared_task(time_limit=1, soft_time_limit=0.9, acks_on_failure_or_timeout=False)
def overruns() -> None:
    while True:
        with contextlib.suppress(SoftTimeLimitExceeded):
            time.sleep(60)


@shared_task
def hears_another_exit(log: str, how: str) -> str:
    """Calls another task like a function."""
    try:
        leaves(log, how)
    except SystemExit as left:
        return f"it exited with {left.code}"
    return "it did not"
