"""A thread beside a puller that looks after a lease while one of its items runs long."""

from __future__ import annotations

import threading
import time

import redis

from hive.broker.link.client import BrokerClient
from hive.jobs.state import steps
from hive.jobs.state.plan import Plan
from hive.jobs.work.lease_size import STUCK, TARGET
from hive.jobs.work.leases import Lease, commit_of
from hive.jobs.work.time_limit import TimeLimit
from hive.logs import get_logger

log = get_logger(__name__)

_LOOK = 0.5


class Keeper(threading.Thread):
    """Commits what a stuck lease has finished, and gives back what waits behind the running item.

    It also sees that a job was cancelled.

    It cuts a lease before it counts, so that the puller starts no item that is given back.
    """

    def __init__(
        self, client: BrokerClient, job_id: str, plan: Plan, node: str, limit: TimeLimit
    ) -> None:
        super().__init__(name=f"hive-keeper-{job_id[:8]}", daemon=True)
        self.lease: Lease | None = None
        self._client = client
        self._job_id = job_id
        self._plan = plan
        self._node = node
        self._limit = limit
        self._over = threading.Event()

    def finish(self) -> None:
        """End the thread, soon; it does nothing more for a closed lease."""
        self._over.set()

    def run(self) -> None:
        next_look = 0.0
        while not self._over.wait(TARGET / 2):
            lease = self.lease
            if lease is None or lease.closed:
                continue
            age = time.perf_counter() - lease.started
            try:
                if age > STUCK and not self._plan.chunk and not lease.cut and len(lease.items) > 1:
                    self._split(lease)
                if age > _LOOK and time.perf_counter() > next_look:
                    next_look = time.perf_counter() + _LOOK
                    self._look_for_a_stop(lease)
            except redis.exceptions.RedisError as error:
                log.warning("keeper_waits", job_id=self._job_id, error=str(error))

    def _split(self, lease: Lease) -> None:
        with lease.lock:
            if lease.closed:
                return
            lease.cut = True
            done = len(lease.results.micros)
            if done >= len(lease.items):
                return
            commit = commit_of(lease, 0, done, self._node, self._plan.reduce)
            if steps.run(self._client, steps.SPLIT, self._job_id, lease.id, *commit.arguments()):
                lease.committed = done

    def _look_for_a_stop(self, lease: Lease) -> None:
        stopped = steps.run(self._client, steps.TOUCH, self._job_id, 0, 0)[0]
        if stopped and not lease.closed:
            lease.cut = True
            if stopped == b"cancelled":
                self._limit.cancel()
