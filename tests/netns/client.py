"""A program on a machine of its own, which knows nothing of faults: `python -m tests.netns.client
NAME UNTIL ANSWERS`.

It sends long tasks, and short ones until the file UNTIL is there, feeds a job meanwhile, and waits
for all of them. Into the file ANSWERS it writes what it got, and how its sending was refused.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hive
from hive.errors import BrokerUnreachableError
from tests.chaos.app import app
from tests.chaos.tasks import item, long, number

LONG = 2
SECONDS = 60
SENDERS = 4
TRIES = 10
PATIENCE = 180


class Client:
    def __init__(self, name: str, until: Path) -> None:
        self._name = name
        self._until = until
        # (label, what its error says of it) of each time that sending failed.
        self.refused: list[tuple[str, str | None]] = []

    def run(self) -> dict[str, Any]:
        long_ones = {
            label: self._send(long, label, SECONDS)
            for label in (f"{self._name}.long{n}" for n in range(LONG))
        }
        with ThreadPoolExecutor(SENDERS + 1) as threads:
            job = threads.submit(self._job)
            senders = [threads.submit(self._short_ones, n) for n in range(SENDERS)]
            answers = {label: sent.get(timeout=PATIENCE) for label, sent in long_ones.items()}
            numbers = [pair for sender in senders for pair in sender.result()]
            values, complete = job.result()
        return {
            "long": answers,
            "numbers": numbers,
            "job": values,
            "complete": complete,
            "refused": self.refused,
        }

    def _short_ones(self, sender: int) -> list[tuple[int, int]]:
        """(what was sent, what came back) of each."""
        sent: list[Any] = []
        while not self._until.exists():
            value = len(sent)
            sent.append(self._send(number, f"{self._name}.{sender}.{value}", value, 0.02))
            time.sleep(0.25)
        return [(value, result.get(timeout=PATIENCE)) for value, result in enumerate(sent)]

    def _send(self, task: Any, label: str, *arguments: object) -> Any:
        """As docs/reliability.md has it: again, under the same ids."""
        same: dict[str, Any] = {}
        for _ in range(TRIES):
            try:
                return task.apply_async((label, *arguments), **same)
            except BrokerUnreachableError as error:
                self.refused.append((label, error.outcome))
                if error.publish_id:
                    header = {"hive": {"id": error.publish_id, "keep": True}}
                    same = {"task_id": error.task_id, "headers": header}
        raise AssertionError(f"{label} was refused {TRIES} times")

    def _job(self) -> tuple[dict[int, int], bool]:
        job = hive.map(item, self._items(), app=app)
        values = {outcome.index: outcome.value for outcome in job}
        return values, job.result(PATIENCE).complete

    def _items(self) -> Iterator[int]:
        value = 0
        while not self._until.exists():
            yield value
            value += 1
            time.sleep(0.1)


if __name__ == "__main__":
    answers = Client(sys.argv[1], Path(sys.argv[2])).run()
    Path(sys.argv[3]).write_text(json.dumps(answers))
