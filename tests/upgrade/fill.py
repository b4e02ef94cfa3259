"""Leaves in a broker all that a release can leave there: nodes and a nexus at work, killed, and
what was sent after their end. `record.py` runs it, with the Hive of the release that is recorded.

What Hive cannot be made to do from outside (lose a message, lose an answer to a node) is done to
the database by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from celery import Celery, chain, chord, group, states

import hive
from tests.harness import WorkerProcess, wait_until
from tests.upgrade.app import (
    HELD_FROM,
    LABELS,
    OWN_QUEUE,
    app,
    begins_once,
    comes_back,
    dies,
    fails,
    held,
    item,
    once,
    plus,
    run,
    say,
    sends,
    total,
)

HIGH, BACKGROUND = "venom:tasks:high", "venom:tasks:background"
ITEMS = 8
FED = 4


class Recording:
    """The hive that is recorded. `names` are ids that Hive chose."""

    def __init__(self) -> None:
        self.directory = Path.cwd()
        self.ran = Path(os.environ["UPGRADE_RAN"])
        self.redis = redis.Redis(port=int(os.environ["REDIS_PORT"]))
        self.broker = hive.MessageBroker(app)
        self.foreman = hive.Foreman(self.broker)
        self.names: dict[str, str] = {}
        self.processes: list[WorkerProcess] = []

    def spore(self, name: str, concurrency: int, **environment: str) -> WorkerProcess:
        spore = WorkerProcess.celery(
            self.directory,
            name,
            app="tests.upgrade.app",
            concurrency=concurrency,
            env={"PYTHONPATH": os.environ["PYTHONPATH"], **environment},
        )
        self.processes.append(spore)
        return spore

    def nexus(self) -> WorkerProcess:
        command = (sys.executable, "-m", "hive", "nexus")
        nexus = WorkerProcess(self.directory / "nexus.log", *command, env={"NEXUS_PORT": "0"})
        self.processes.append(nexus)
        return nexus

    def online(self) -> int:
        return int(self.foreman.get_cluster_status()["online_nodes"])

    def state(self, task_id: str) -> str:
        return str(app.AsyncResult(task_id).state)

    def has_run(self, *names: str) -> bool:
        return set(names) <= set(self.ran.read_text().splitlines())

    def command(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "hive", *arguments, "--json"],
            capture_output=True,
            check=True,
            timeout=60,
        )
        return json.loads(done.stdout)

    # -- in order

    def record(self) -> None:
        home = self.spore("home", 7)
        gone = self.spore(
            "gone",
            2,
            HIVE_NODE_LABELS=",".join(f"{name}={value}" for name, value in LABELS.items()),
        )
        wait_until(lambda: self.online() == 2, what="two nodes are online")
        # Before the nexus: its first tick notes that nothing is sent with these any more.
        run.apply_async(("idle",), requirements={"memory_mb": 1}).get(timeout=60)
        nexus = self.nexus()
        self.finish_some()
        self.begin_canvases()
        self.lose()
        nexus.kill()
        self.bury("dead-untold")
        self.begin_jobs()
        self.begin_tasks()
        home.kill(signal.SIGSTOP)
        self.place()
        for spore in (home, gone):
            spore.kill()
        wait_until(lambda: not self.online(), what="both nodes are offline")
        self.let_wait()
        self.let_plain_celery_send()

    def finish_some(self) -> None:
        assert run.apply_async(("succeeded",), task_id="succeeded").get(timeout=60) == "succeeded"
        fails.apply_async(("failed",), task_id="failed").get(timeout=60, propagate=False)
        once.apply_async(("kept", "first"), task_id="first").get(timeout=60)
        job = hive.map(item, [["ended", number] for number in range(ITEMS)], "sum", app=app)
        assert job.result(60).value == sum(range(ITEMS))
        self.names["ended"] = job.id
        self.bury("dead-told")
        wait_until(lambda: self.state("dead-told") == states.FAILURE, what="its end is told")

    def bury(self, name: str) -> None:
        dies.apply_async((name,), task_id=name)
        wait_until(
            lambda: name in {letter["task_id"] for letter in self.command("dead", "list")},
            what=f"{name} is a dead letter",
        )

    def begin_canvases(self) -> None:
        """The first part of each runs, the next waits in the queue that nobody serves."""

        def parts(name: str) -> list[Any]:
            first = plus.si(0, f"{name}-1", 1)
            return [first, plus.si(0, f"{name}-2", 2).set(queue=OWN_QUEUE)]

        chord(parts("chord"))(total.s("chord-body").set(task_id="chord-body"))
        grouped = group(parts("group")).apply_async()
        grouped.save()
        self.names["group"] = grouped.id
        first, second, third = (plus.s(f"chain-{number}", 10**number) for number in range(3))
        last = chain(first.clone((0,)), second.set(queue=OWN_QUEUE), third).apply_async(
            task_id="chain"
        )
        assert last.id == "chain"
        wait_until(lambda: self.has_run("chord-1", "group-1", "chain-0"), what="they have begun")
        wait_until(lambda: self.waiting() == 3, what="all three go on later")

    def waiting(self) -> int:
        """How many wait in the application's queue."""
        return sum(int(self.redis.llen(key)) for key in self.redis.keys(f"{OWN_QUEUE}*"))

    def lose(self) -> None:
        """A message is lost, and with another the answer that gave it to a node: the alarm, and a
        zombie that was given back.
        """
        for name in ("lost", "zombie"):
            run.apply_async((name,), task_id=name, queue=OWN_QUEUE)
            publish_id = self.redis.hget("venom:ids", name)
            for key in self.redis.keys(f"{OWN_QUEUE}*"):
                self.redis.lrem(key, 1, publish_id)
            if name == "lost":
                self.redis.hdel("venom:entries", publish_id)
            else:
                incarnations = [raw.decode() for raw in self.redis.hkeys("venom:epochs")]
                home = next(known for known in incarnations if known.startswith("home@h/"))
                self.redis.hset("venom:reserved:home@h", publish_id, f"{home}|{self.now()}")
        broker = self.broker
        wait_until(lambda: asyncio.run(broker.detect_zombie_tasks()) == ["zombie"], what="a zombie")
        wait_until(lambda: self.waiting() == 4, what="it was given back")
        # The broker forgets what it confirmed, too: that alarm stands until people settle it.
        for key in filter(self.redis.exists, ("venom:audit", "venom:account")):
            self.redis.hset(key, "mark", 0)
        wait_until(self.alarmed, what="an alarm about both")

    def alarmed(self) -> bool:
        """Whether the watchdog has noticed both: a message is gone, and the broker went back."""
        alarm = self.command("status")["alarm"] or {}
        return bool(alarm.get("missing") and alarm.get("went_back"))

    def now(self) -> int:
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def begin_jobs(self) -> None:
        """One that a process feeds that will be killed, then one from a list: two items of it run
        when their node is killed.
        """
        fed = hive.map(item, feed(), "list", requirements={"labels": LABELS}, app=app)
        wait_until(lambda: fed.progress().completed == FED, what="what was fed is done")
        items = [["halfway", number] for number in range(ITEMS)]
        halfway = hive.map(item, items, "sum", requirements={"labels": LABELS}, chunk=1, app=app)
        wait_until(lambda: halfway.progress().running == 2, what="two items run")
        wait_until(
            lambda: self.has_run(f"halfway {HELD_FROM}", f"halfway {HELD_FROM + 1}"),
            what="they are the two that do not end",
        )
        self.names |= {"fed": fed.id, "halfway": halfway.id}

    def begin_tasks(self) -> None:
        held.apply_async(("reserved",), task_id="reserved")
        sends.apply_async(("parent",), task_id="parent")
        begins_once.apply_async(("begun",), task_id="begun")
        once.apply_async(("claimed", "claim"), task_id="claim")
        wait_until(lambda: self.has_run("reserved", "parent", "begun", "claim"), what="they run")
        comes_back.apply_async(("retry",), task_id="retry")
        wait_until(lambda: self.state("retry") == states.RETRY, what="it will come back")

    def place(self) -> None:
        """Bind tasks to a node that is too frozen to take them."""
        run.apply_async(("placed",), task_id="placed")
        run.apply_async(("near",), task_id="near", affinity="model-7")
        run.apply_async(("assigned",), task_id="assigned")
        assert asyncio.run(self.foreman.assign_task("assigned")) == "home@h"
        assert self.redis.zcard("venom:placed:home@h") == 3

    def let_wait(self) -> None:
        for queue, name in ((HIGH, "high"), (BACKGROUND, "background"), (OWN_QUEUE, "own")):
            run.apply_async((name,), task_id=name, queue=queue)
            for priority in (0, 9):
                named = f"{name}-{priority}"
                run.apply_async((named,), task_id=named, queue=queue, priority=priority)
        say.apply_async(("skill",), task_id="skill")
        run.apply_async(("required",), task_id="required", requirements={"labels": LABELS})
        run.apply_async(("pinned",), task_id="pinned", requirements={"node": "home@h"})
        run.apply_async(("near-too",), task_id="near-too", affinity="model-7")
        run.apply_async(("later",), task_id="later", countdown=5)
        run.apply_async(("overdue",), task_id="overdue", countdown=0.01)
        far = datetime(2100, 1, 1, tzinfo=UTC)
        run.apply_async(("far",), task_id="far", eta=far)
        once.apply_async(("kept", "second"), task_id="second")
        once.apply_async(("claimed", "after"), task_id="after", queue=OWN_QUEUE, countdown=1)
        for name, countdown in (("revoked", 0), ("revoked-later", 5)):
            run.apply_async((name,), task_id=name, countdown=countdown)
            app.control.revoke(name)

    def let_plain_celery_send(self) -> None:
        """An application without Hive pushes whole messages."""
        plain = Celery("plain", broker=f"redis://127.0.0.1:{os.environ['REDIS_PORT']}/0")
        plain.set_current()
        for name, countdown in (("plain", None), ("plain-later", 5)):
            plain.send_task(run.name, (name,), task_id=name, queue=BACKGROUND, countdown=countdown)
        plain.close()


def feed() -> Iterator[list[Any]]:
    """Some items, then nothing for ever."""
    yield from (["fed", number] for number in range(FED))
    threading.Event().wait()


def main() -> None:
    recording = Recording()
    recording.ran.touch()
    try:
        recording.record()
    finally:
        for process in recording.processes:
            process.kill()
    sys.stdout.write(json.dumps({"hive": hive.__file__, "names": recording.names}))


if __name__ == "__main__":
    main()
