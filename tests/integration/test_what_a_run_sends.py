"""What a run sends is remembered where a repeated run sends the same again, and nowhere else."""

from __future__ import annotations

import importlib
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain

import hive
from hive.broker.link.client import client_of
from tests.harness import BrokerServer, WorkerProcess, wait_until
from tests.integration.cluster import REPOSITORY

CHILDREN = 6000


class Hive:
    """A broker, a spore and the application."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "ran").touch()
        self.server = BrokerServer(directory / "broker", durable=False).start()
        self.environment = {
            **self.server.environment,
            "SENDING_DIRECTORY": str(directory),
            "PYTHONPATH": str(REPOSITORY),
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            self.tasks: Any = importlib.import_module("tests.integration.sending_app")
        self.client = client_of(self.tasks.app)
        self.spores = [self.spore("sending", len(self.tasks.AGAIN))]

    def spore(self, name: str, concurrency: int) -> WorkerProcess:
        return WorkerProcess.celery(
            self.directory,
            name,
            app="tests.integration.sending_app",
            concurrency=concurrency,
            env=self.environment,
            options=("--without-gossip", "--without-mingle"),
        )

    def ran(self) -> Counter[str]:
        return Counter((self.directory / "ran").read_text().splitlines())

    def keys(self, kind: str) -> list[str]:
        return [key.decode() for key in self.client.redis.keys(f"venom:{kind}:*")]

    def accepted(self) -> int:
        return int(self.client.redis.hget("venom:counters", "accepted") or 0)

    def close(self) -> None:
        for spore in self.spores:
            spore.kill()
        self.tasks.app.backend.result_consumer.stop()
        for router in self.tasks.app.conf.task_routes:
            router.close()
        self.tasks.app.close()
        self.client.close()
        hive.app.set_default()
        del sys.modules["tests.integration.sending_app"]
        self.server.kill()


@pytest.fixture(scope="module")
def sending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    started = Hive(tmp_path_factory.mktemp("sending"))
    try:
        yield started
    finally:
        started.close()


@pytest.mark.parametrize(
    ("way", "number"),
    [
        ("delay", CHILDREN),
        *(
            (way, 300)
            for way in ("countdown", "by name", "a name that nobody knows", "signature", "group")
        ),
        *((way, 300) for way in ("with a callback", "chain", "chord", "chunks")),
        ("map", 20),
    ],
)
def test_children_that_a_repeated_run_sends_as_other_tasks_leave_nothing_behind(
    sending: Hive, way: str, number: int
) -> None:
    left = sending.tasks.sends_anew.delay(way, number).get(timeout=60)
    assert (left["sent"], left["noted"]) == (0, 0)
    if number == CHILDREN:
        assert left["blocks"] < CHILDREN / 2, "memory of the process"
    # What runs for the job of a map may have sent something, too.
    wait_until(lambda: not sending.keys("sent"), what="what was sent is forgotten")


def test_children_that_a_repeated_run_sends_as_the_same_run_once(sending: Hive) -> None:
    """However long ago the first run sent them."""
    child = sending.tasks.child
    canvas = chain(child.si("canvas that was given"), child.si("canvas that was given"))
    canvas.freeze()
    given = {"random": str(uuid.uuid4()), "canvas": canvas}
    expected = Counter(dict.fromkeys(sending.tasks.AGAIN, 1))
    expected |= Counter({"group with task ids": 2, "canvas that was given": 2})
    parents = [sending.tasks.sends_again.delay(way, given) for way in sending.tasks.AGAIN]
    names = set(sending.tasks.AGAIN)

    def have_sent() -> bool:
        return all((sending.directory / f"sent {way}").exists() for way in names)

    wait_until(have_sent, what="all children are sent")
    # Slots for the children: those of the first spore are the parents' until they die.
    sending.spores.append(sending.spore("children", 2))
    wait_until(lambda: sending.ran() == expected, what="each child has run")
    wait_until(lambda: not sending.client.redis.hlen("venom:reserved:children@h"), what="all told")
    sending.client.redis.delete(*sending.keys("finished"))  # minutes later
    accepted = sending.accepted()
    (sending.directory / "die").touch()
    for parent in parents:
        parent.get(timeout=60)
    assert sending.accepted() == accepted, "they sent nothing more"
    assert sending.ran() == expected
    wait_until(lambda: not sending.keys("sent"), what="what they sent is forgotten with them")
