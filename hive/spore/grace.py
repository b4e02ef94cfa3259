"""The grace period of a worker that was told to stop: finish what runs, then give back the rest."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import signals

from hive.logs import get_logger

log = get_logger(__name__)

LONGEST_END = 10.0
"""Seconds that giving back and ending take at most: what needs the broker is tried once, and a
silent one is given up within seconds.
"""


class Grace(threading.Thread):
    """Bounds Celery's warm shutdown, which waits for as long as a task runs.

    on_stop is called at the first stop signal. on_end is called when the grace period is over, or
    at a second stop signal, which Celery itself passes over. on_stuck is called when the process
    has not ended LONGEST_END after that. All run in this thread.
    """

    def __init__(
        self,
        seconds: float,
        on_stop: Callable[[], object],
        on_end: Callable[[], object],
        on_stuck: Callable[[], object],
    ) -> None:
        """seconds: how long what runs may go on after the first stop signal."""
        super().__init__(name="hive-grace", daemon=True)
        self._seconds = seconds
        self._on_stop = on_stop
        self._on_end = on_end
        self._on_stuck = on_stuck
        self._reader, self._writer = os.pipe()

    def start(self) -> None:
        super().start()
        signals.worker_shutting_down.connect(
            self._told, weak=False, dispatch_uid="hive.spore.grace"
        )

    def run(self) -> None:
        os.read(self._reader, 1)
        log.info("worker_finishing", seconds=self._seconds)
        self._on_stop()
        hurried, _, _ = select.select([self._reader], [], [], self._seconds)
        log.warning(
            "worker_gives_back",
            why="told to stop again" if hurried else "its grace period is over",
            seconds=self._seconds,
        )
        self._on_end()
        time.sleep(LONGEST_END)
        log.error("worker_does_not_end", seconds=LONGEST_END)
        self._on_stuck()

    def _told(self, *, how: str, **_: Any) -> None:
        # This runs inside a signal handler, between any two instructions of the main thread, so it
        # must not take a lock.
        if how == "Warm":
            os.write(self._writer, b"\0")
