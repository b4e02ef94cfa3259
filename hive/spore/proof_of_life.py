"""What tells a worker that takes work from one that hangs: the worker's side of the signs of life,
whose other side is hive/process/liveness.py.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import redis
from celery.concurrency.solo import TaskPool as Solo

from hive.broker.channel.incarnation import Incarnation, boottime
from hive.broker.link.client import client_of
from hive.broker.link.outage import comes_back, passes
from hive.process.liveness import DRAINS, REFUSED, WAITS, WORKS

PERIOD = 1.0
STALE = 5.0
"""Seconds without an answer to the event loop's question for work, or without a turn of that loop,
after which a worker gives no sign.
"""


class ProofOfLife(threading.Thread):
    """Gives a sign every second while the worker takes work, is full, or finds no broker."""

    def __init__(self, fd: int, worker: Any, incarnation: Incarnation) -> None:
        """fd: the write end, as given by HIVE_SIGNS_FD."""
        super().__init__(name="hive-signs", daemon=True)
        os.set_inheritable(fd, False)
        self._fd = fd
        self._worker = worker
        self._incarnation = incarnation
        self._client = client_of(worker.app).with_timeout(PERIOD)

    def run(self) -> None:
        while True:
            sign = self._sign()
            if sign:
                try:
                    os.write(self._fd, sign)
                except OSError:
                    return  # the supervisor is gone, of which the lifeline tells
            time.sleep(PERIOD)

    def _sign(self) -> bytes:
        """How it stands; empty where a new start would help it."""
        if self._works():
            return DRAINS if self._incarnation.draining else WORKS
        return self._sign_of_broker()

    def _works(self) -> bool:
        incarnation = self._incarnation
        if incarnation.stopping:
            return True  # its end has a time limit of its own
        if not isinstance(self._worker.pool, Solo) and boottime() - incarnation.turned_at > STALE:
            return False  # a solo pool runs its task in the event loop
        asks = bool(self._worker.app.amqp.queues.consume_from) and incarnation.can_consume()
        return not asks or boottime() - incarnation.answered_at < STALE

    def _sign_of_broker(self) -> bytes:
        try:
            self._client.redis.ping()
        except redis.exceptions.RedisError as error:
            return REFUSED if passes(error) and not comes_back(error) else WAITS
        return b""
