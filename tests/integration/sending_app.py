"""An application whose tasks send others, in every way that there is."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, chain, chord, chunks, group, signature

import hive
from hive.broker.channel.header import Header
from hive.broker.channel.publishing import _unknown
from hive.broker.link.client import client_of

app = hive.install(Celery("sending"))
DIRECTORY = Path(os.environ.get("SENDING_DIRECTORY", "."))
UNSERVED = "films"


@app.task
def child(name: Any = "") -> None:
    with (DIRECTORY / "ran").open("a") as ran:
        ran.write(f"{name}\n")


@app.task
def total(_: Any) -> None: ...


def waits(name: Any) -> Any:
    """A child that nobody runs."""
    return child.si(name).set(queue=UNSERVED)


ANEW: dict[str, Callable[[int], Any]] = {
    "delay": lambda n: child.apply_async((n,), queue=UNSERVED),
    "countdown": lambda n: child.apply_async((n,), queue=UNSERVED, countdown=600),
    "by name": lambda n: app.send_task(child.name, (n,), queue=UNSERVED),
    "a name that nobody knows": lambda n: app.send_task("nobody.knows", (n,), queue=UNSERVED),
    "signature": lambda n: waits(n).delay(),
    "with a callback": lambda n: child.apply_async((n,), queue=UNSERVED, link=waits(n)),
    "group": lambda n: group(waits(n), waits(n))(),
    "chain": lambda n: chain(waits(n), waits(n))(),
    "chord": lambda n: chord([waits(n), waits(n)])(total.si(0).set(queue=UNSERVED)),
    "chunks": lambda n: chunks(child.s(), [(n,), (n,)], 1).apply_async(queue=UNSERVED),
    "map": lambda n: hive.map(total, [n], app=app),
}
"""A repeated run sends these as other tasks."""


@app.task(bind=True, trail=False)
def sends_anew(self: Any, way: str, number: int) -> dict[str, Any]:
    """What is remembered of `number` children while their parent runs still."""
    client, publish_id = client_of(app), self.request.hive["id"]
    ANEW[way](0)
    gc.collect()
    blocks = sys.getallocatedblocks()
    for n in range(number):
        ANEW[way](n)
    gc.collect()
    noted = {name: value for name, value in vars(self.request).items() if name.startswith("_hive")}
    return {
        "sent": client.redis.exists(client.key("sent", publish_id)),
        "noted": sum(len(value) for value in noted.values()) + len(_unknown),
        "blocks": sys.getallocatedblocks() - blocks,
    }


AGAIN: dict[str, Callable[[str, Any], Any]] = {
    "task id": lambda name, _: child.apply_async((name,), task_id=name),
    "task id by name": lambda name, _: app.send_task(child.name, (name,), task_id=name),
    "signature with a task id": lambda name, _: child.si(name).set(task_id=name).delay(),
    "random task id of its own": lambda name, given: child.apply_async(
        (name,), task_id=given["random"]
    ),
    "publish id": lambda name, _: child.apply_async((name,), headers=Header.under_id("publish-id")),
    "group with task ids": lambda name, _: group(
        child.si(name).set(task_id=f"{name} {n}") for n in range(2)
    )(),
    "canvas that was given": lambda _, given: signature(given["canvas"], app=app).delay(),
}
"""A repeated run sends these as the same."""


@app.task(bind=True)
def sends_again(self: Any, way: str, given: dict[str, Any]) -> None:
    """Its first run dies once it is told to."""
    AGAIN[way](way, given)
    if not self.request.hive["deaths"]:
        (DIRECTORY / f"sent {way}").touch()
        while not (DIRECTORY / "die").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
