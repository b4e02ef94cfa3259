"""Skills that the tests' own workers run; workers get them by `-I tests.integration.jobs`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import shared_task
from pydantic import BaseModel, Field

from hive.skills import skill


class AddInput(BaseModel):
    a: int
    b: int = Field(0)


@skill("Add two numbers", name="add_numbers", intents=("add", "add numbers"), input=AddInput)
def add_numbers(a: int, b: int = 0) -> int:
    return a + b


@skill("Say it again, and what is no number", name="say_again", intents=("say again",))
def say_again(text: str) -> dict[str, Any]:
    return {"said": text, "mean": float("nan")}


@skill("Complain", name="complain", intents=("complain",))
def complain(text: str) -> None:
    raise ValueError(text)


@skill("Fail until a file is there", name="needs_file", intents=("need a file",))
def needs_file(path: str) -> str:
    if not Path(path).exists():
        raise FileNotFoundError(path)
    return "found"


class WaitInput(BaseModel):
    begun: str
    go: str


@skill("Write that it began, then wait for a file", name="wait_for", input=WaitInput)
def wait_for(begun: str, go: str) -> str:
    with Path(begun).open("a") as log:
        log.write("x")
    end = time.monotonic() + 60
    while not Path(go).exists() and time.monotonic() < end:
        time.sleep(0.02)
    return "went on"


@shared_task
def keep_memory(mb: int, begun: str, go: str) -> int:
    """Take so many MiB of memory, and keep them until a file is there."""
    kept = bytearray(os.urandom(1024) * 1024 * mb)
    wait_for(begun, go)
    return len(kept)


@skill("Count how many run at once", name="overlap")
def overlap(path: str) -> int:
    """As many as there are files beside this one's."""
    mine = Path(path)
    mine.touch()
    time.sleep(0.3)
    count = len(list(mine.parent.iterdir()))
    mine.unlink()
    return count


@shared_task(bind=True)
def wait_and_retry(self: Any, begun: str, go: str) -> int:
    """Wait as `wait_for` does, and send itself again, once."""
    wait_for(begun, go)
    if not self.request.retries:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@skill("Kill its own process", name="poison")
def poison() -> None:
    os.kill(os.getpid(), 9)


@shared_task(bind=True)
def sends_on(self: Any, begun: str, go: str) -> int:
    """Wait for a file, send another task, be retried."""
    if not self.request.retries:
        wait_for(begun, go)
        plain.apply_async()
        raise self.retry(countdown=0)
    return int(self.request.retries)


@shared_task(ignore_result=True)
def plain(*args: Any, **kwargs: Any) -> list[Any]:
    return [args, kwargs]


@shared_task(bind=True)
def retry_with(self: Any, options: dict[str, Any]) -> None:
    """Ask to be sent again with options that cannot be sent."""
    raise self.retry(countdown=0, **options)


@shared_task(bind=True, name="jobs.retry_once")
def retry_once(self: Any) -> int:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return int(self.request.retries)
