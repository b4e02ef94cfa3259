"""A thread beside a puller that looks after its leases while an item of theirs runs long."""

from __future__ import annotations

import threading
import time

import redis

from hive.broker.link.client import BrokerClient
from hive.jobs.state import steps
from hive.jobs.state.plan import Plan
from hive.jobs.work.lease_size import STUCK, TARGET
from hive.jobs.work.leases import Lease, commit_of, put_off
from hive.jobs.work.leftovers import hear_no_signals
from hive.jobs.work.time_limit import TimeLimit
from hive.logs import get_logger

log = get_logger(__name__)

_LOOK = 0.5


class Keeper(threading.Thread):
    """Commits what a stuck lease has finished, and gives back what waits behind the running item.

    It also sees that a job was cancelled.

    It cuts a lease before it counts, so that the puller starts no item that is given back.
    """

    def __init__(self, client: BrokerClient, job_id: str, plan: Plan, node: str) -> None:
        super().__init__(name=f"hive-keeper-{job_id[:8]}", daemon=True)
        self._leases: dict[int, tuple[Lease, TimeLimit]] = {}
        self._client = client
        self._job_id = job_id
        self._plan = plan
        self._node = node
        self._next_look = 0.0
        self._over = threading.Event()

    def look_after(self, lease: Lease, limit: TimeLimit) -> None:
        """From now on this is the lease of the thread that calls, and the limit of its items."""
        self._leases[threading.get_ident()] = lease, limit

    def finish(self) -> None:
        """End the thread, soon; it does nothing more for a closed lease."""
        self._over.set()

    def run(self) -> None:
        hear_no_signals()
        while not self._over.wait(TARGET / 2):
            looked_after = [pair for pair in [*self._leases.values()] if not pair[0].closed]
            try:
                for lease, _ in looked_after:
                    self._look_at(lease)
                self._look_for_a_stop(looked_after)
            except redis.exceptions.RedisError as error:
                log.warning("keeper_waits", job_id=self._job_id, error=str(error))

    def _look_at(self, lease: Lease) -> None:
        is_stuck = time.perf_counter() - lease.started > STUCK
        if is_stuck and not self._plan.chunk and not lease.cut and len(lease.items) > 1:
            self._split(lease)

    def _split(self, lease: Lease) -> None:
        with lease.lock:
            if lease.closed:
                return
            lease.cut = True
            done = len(lease.results.micros)
            if done >= len(lease.items):
                return
            if not self._put_off(lease, done):
                return
            commit = commit_of(lease, lease.committed, done, self._node, self._plan.reduce)
            if steps.run(self._client, steps.SPLIT, self._job_id, lease.id, *commit.arguments()):
                lease.committed = done

    def _put_off(self, lease: Lease, done: int) -> bool:
        """Let those of the items done wait that run again. Returns: whether the lease is there."""
        while (offset := lease.next_retrial(lease.committed, done)) is not None:
            step = put_off(lease, lease.committed, offset, self._node, self._plan.reduce)
            if steps.run(self._client, steps.PUT_OFF, self._job_id, *step.arguments()) < 0:
                return False
            lease.committed = offset + 1
        return True

    def _look_for_a_stop(self, looked_after: list[tuple[Lease, TimeLimit]]) -> None:
        now = time.perf_counter()
        if now <= self._next_look or all(now - lease.started <= _LOOK for lease, _ in looked_after):
            return
        self._next_look = now + _LOOK
        stopped = steps.run(self._client, steps.TOUCH, self._job_id, 0, 0)[0]
        for lease, limit in looked_after:
            if stopped and not lease.closed:
                lease.cut = True
                if stopped == b"cancelled":
                    limit.cancel()
