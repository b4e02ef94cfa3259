"""What the workers run in chaos; every run of a task writes its start and its end into the ledger
by itself.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import shared_task


@functools.cache
def _ledger() -> int:
    return os.open(os.environ["CHAOS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _note(event: str, task: Any, label: str) -> None:
    """One line, appended in one write: what processes write at the same time does not mix, and a
    kill leaves no half line.
    """
    hive = task.request.hive
    fields = (
        event,
        hive["id"],
        hive["inc"],
        os.getpid(),
        label,
        task.request.retries,
        f"{time.monotonic():.3f}",
    )
    os.write(_ledger(), (" ".join(map(str, fields)) + "\n").encode())


@contextmanager
def run(task: Any, label: str) -> Iterator[None]:
    _note("start", task, label)
    yield
    _note("end", task, label)


@shared_task(bind=True, ignore_result=True)
def work(self: Any, label: str, seconds: float) -> None:
    with run(self, label):
        time.sleep(seconds)


@shared_task(bind=True)
def number(self: Any, label: str, value: int, seconds: float) -> int:
    with run(self, label):
        time.sleep(seconds)
    return value


@shared_task(bind=True)
def plus_one(self: Any, value: int, label: str, seconds: float) -> int:
    with run(self, label):
        time.sleep(seconds)
    return value + 1


@shared_task(bind=True)
def total(self: Any, values: list[int], label: str) -> int:
    with run(self, label):
        return sum(values)


@shared_task(bind=True, max_retries=None)
def tries_again(self: Any, label: str, times: int, seconds: float) -> int:
    with run(self, label):
        time.sleep(seconds)
    if self.request.retries < times:
        raise self.retry(countdown=0.3)
    return int(self.request.retries)


@shared_task
def item(value: int) -> int:
    time.sleep(0.01)
    return value


@shared_task(bind=True)
def poison(self: Any, label: str) -> None:
    with run(self, label):
        os.kill(os.getpid(), signal.SIGKILL)


@shared_task(bind=True, time_limit=0, soft_time_limit=0)
def long(self: Any, label: str, seconds: float) -> str:
    """Its time limits are lifted. Answers with the node that ran it."""
    with run(self, label):
        time.sleep(seconds)
    return str(self.request.hive["node"])


@shared_task(bind=True)
def gated(self: Any, label: str, go: str) -> str:
    """Waits for a file. Answers with the node that ran it."""
    with run(self, label):
        end = time.monotonic() + 120
        while not Path(go).exists() and time.monotonic() < end:
            time.sleep(0.02)
    return str(self.request.hive["node"])
