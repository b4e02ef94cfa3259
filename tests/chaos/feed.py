"""Feeds the storm: `python -m tests.chaos.feed EXPECTED` sends plain tasks and canvases, never far
ahead of the spores.

EXPECTED: the file that gets a JSON line for each task or job whose answer is known.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from celery import chain, chord, group

import hive
from hive.broker.link.client import client_of
from hive.errors import BrokerUnreachableError
from tests.chaos.app import app
from tests.chaos.forms import FORM
from tests.chaos.tasks import item, number, plus_one, total, tries_again, work

ITEMS = 200
LINKS = 5
PARALLEL = 10


class Feeder:
    def __init__(self, expected: Path) -> None:
        self._expected = expected
        self._chance = random.Random(1)
        self._client = client_of(app)

    def feed(self) -> None:
        between = FORM.tasks // FORM.canvases
        for index in range(FORM.tasks):
            self._plain(index)
            which, place = divmod(index, between)
            if place == between // 2 and which < FORM.canvases:
                for canvas in (self._chord, self._group, self._chain, self._job):
                    self._wait()
                    canvas(which)
            self._wait()

    def _plain(self, index: int) -> None:
        label, seconds = f"t{index}", self._chance.uniform(*FORM.runs)
        if index % 20 == 0:
            self._expect(label, 2, tries_again.delay(label, 2, seconds))
        elif index % 10 == 5:
            work.apply_async((label, seconds), countdown=self._chance.uniform(0.1, 3))
        else:
            work.apply_async((label, seconds), priority=index % 11)

    def _chord(self, which: int) -> None:
        label = f"chord{which}"
        members = (number.s(f"{label}.{member}", member, 0.05) for member in range(FORM.members))
        self._expect(label, sum(range(FORM.members)), chord(members)(total.s(label)))

    def _group(self, which: int) -> None:
        label = f"group{which}"
        sent = group(
            number.s(f"{label}.{member}", member, 0.1) for member in range(PARALLEL)
        ).apply_async()
        for member, result in enumerate(sent.children):
            self._expect(f"{label}.{member}", member, result)

    def _chain(self, which: int) -> None:
        label = f"chain{which}"
        steps = (plus_one.s(f"{label}.{step}", 0.1) for step in range(1, LINKS))
        self._expect(label, LINKS, chain(plus_one.s(0, f"{label}.0", 0.1), *steps).apply_async())

    def _job(self, which: int) -> None:
        for label in _again(lambda tries: f"job{which}.{tries}"):
            try:
                job = hive.map(item, range(ITEMS), "sum", app=app)
            except BrokerUnreachableError as error:  # said so; the caller asks again
                print(f"{label}: {error}", flush=True)
                continue
            self._record({"label": label, "job": job.id, "expected": sum(range(ITEMS))})
            return

    def _expect(self, label: str, expected: Any, result: Any) -> None:
        self._record({"label": label, "task": result.id, "expected": expected})

    def _record(self, line: dict[str, Any]) -> None:
        with self._expected.open("a") as file:
            print(json.dumps(line), file=file)

    def _wait(self) -> None:
        """Until fewer tasks wait than the form has."""
        while True:
            try:
                if self._client.redis.hlen(self._client.key("entries")) < FORM.backlog:
                    return
            except redis.exceptions.RedisError as error:
                print(f"the broker is away: {error}", flush=True)
            time.sleep(0.02)


def _again(label: Callable[[int], str]) -> Iterator[str]:
    for tries in range(1, 11):
        yield label(tries)
    raise AssertionError(f"not even the tenth time: {label(10)}")


if __name__ == "__main__":
    Feeder(Path(sys.argv[1])).feed()
