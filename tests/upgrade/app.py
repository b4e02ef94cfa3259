"""The application whose hive is upgraded. Two releases of Hive run it: it uses only what Hive
promises to applications.

UPGRADE_RAN: a file in which the tasks say that they ran. UPGRADE_RECORDS: this is the recording,
in which some of them must not come to their end.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery

import hive

OWN_QUEUE = "films"
"""A queue of the application's own. Nobody serves it while the recording is made."""
LABELS = {"disk": "ssd"}
"""Of the node that the jobs require."""
HELD_FROM = 4
"""The first item of the job `halfway` that does not come to its end in the recording."""
RECORDS = bool(os.environ.get("UPGRADE_RECORDS"))
RETRY_AFTER = 15 if RECORDS else 0.2
"""Seconds. The recording has to kill its nodes before they are over."""

app = Celery("upgrade")
hive.install(app)


def note(what: str) -> None:
    with Path(os.environ["UPGRADE_RAN"]).open("a") as file:
        file.write(f"{what}\n")


def hold() -> None:
    """In the recording: run until the node is killed."""
    if RECORDS:
        time.sleep(600)


@app.task
def run(name: str) -> str:
    note(name)
    return name


@hive.skill("Say a name", name="upgrade.say")
def say(name: str) -> str:
    note(name)
    return name


@app.task
def plus(value: int, name: str, number: int) -> int:
    note(name)
    return value + number


@app.task
def total(values: list[int], name: str) -> int:
    note(name)
    return sum(values)


@app.task
def fails(name: str) -> None:
    note(name)
    raise ValueError(name)


@app.task
def held(name: str) -> str:
    note(name)
    hold()
    return name


@app.task(acks_late=False)
def begins_once(name: str) -> str:
    """Acknowledged when it begins: a killed run is not repeated."""
    note(name)
    hold()
    return name


@app.task
def sends(name: str) -> str:
    """Sends a child under an id that is always the same: a repeated run sends it no second time."""
    child = f"{name}-child"
    run.apply_async((child,), task_id=child, queue=OWN_QUEUE)
    note(name)
    hold()
    return name


@app.task
def dies(name: str) -> str:
    note(name)
    if RECORDS:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


@app.task(bind=True)
def comes_back(self: Any, name: str) -> int:
    note(name)
    if not self.request.retries:
        raise self.retry(countdown=RETRY_AFTER)
    return int(self.request.retries)


@app.task
@hive.idempotent(key="{key}")
def once(key: str, name: str) -> str:
    note(name)
    if key == "claimed":
        hold()
    return f"what {name} returned"


@app.task
def item(of: list[Any]) -> int:
    """An item of a job: the job's name in these tests, and a number."""
    name, number = of
    note(f"{name} {number}")
    if name == "halfway" and number >= HELD_FROM:
        hold()
    return int(number)
