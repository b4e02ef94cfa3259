"""A task that waits for a job works on it meanwhile, in its own slot.

Else as many such tasks as there are slots would wait for ever for the pullers behind them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import redis
from celery import Celery

from hive.broker.channel.header import Header
from hive.broker.link.client import BrokerClient
from hive.broker.link.outage import READERS_WAIT, passes, until_back
from hive.broker.nodes.requirements import Requirements
from hive.broker.nodes.table import NodeTable
from hive.jobs.state.plan import Plan
from hive.jobs.work.puller import Puller, Pulling
from hive.jobs.work.time_limit import TimeLimit
from hive.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")
Went = Literal["worked", "nothing", "done"]


class Helper(Puller):
    """Leases and runs items of a job for a task that waits for it, whenever that has a moment.

    Its leases are owned by the task's message, and go back when that dies. It holds none between
    two calls of `work`, since nobody knows when the next one comes.
    """

    _commits = "helped"

    def __init__(self, app: Celery, request: Any, job_id: str, plan: Plan) -> None:
        super().__init__(app, request, job_id)
        # The slot is taken by the task in any case: no other task gets it earlier.
        self.urgent, self.others, self.ends = [], [], 0.0
        self.redelivered = False
        self._plan = plan
        self._wanted = 1
        self._mode = "help"

    def work(self, limit: TimeLimit) -> Went:
        """Take one lease and run it, without waiting for what is not there.

        limit: is entered.
        Returns: "worked"; "nothing", since nothing can be leased now; "done", all items have their
            outcomes. Raises: what interrupts the task where no item runs, redis errors when the
            broker is away.
        """
        try:
            return self._work(limit)
        except BaseException:
            # Whatever it held is others' to run, as soon as they are told.
            self._mode = "help again"
            with contextlib.suppress(redis.exceptions.RedisError):
                self._step(self._mode, go=False)
                self._mode = "help"
            raise

    def _work(self, limit: TimeLimit) -> Went:
        reply = self._step(self._mode, want=self._wanted)
        self._mode = "help"
        if reply[0] != b"run":
            return "done" if reply[0] == b"done" else "nothing"
        Pulling(self, self._plan, self._calls_of(self._plan, limit), limit).run(reply)
        return "worked"

    def commit(self, *lease_and_commit: Any, go: bool) -> list[Any]:
        self._wanted = lease_and_commit[2]
        return super().commit(*lease_and_commit, go=go)

    def _in_spite_of_outages(
        self, step: Callable[[], T], mode: str, waits: Callable[[], None]
    ) -> T:
        """Wait for the broker no longer than who asks for the job does, and only with outcomes that
        would be lost. What interrupts the task ends it.
        """
        longest = READERS_WAIT if mode in ("", self._commits) else -1.0
        return until_back(step, longest=longest, waits=lambda _: waits(), away=passes)


def can_help(client: BrokerClient, app: Celery, request: Any, plan: Plan) -> bool:
    """Whether the process that works for this request may run items of such a job.

    Raises: redis errors.
    """
    if plan.call.name not in app.tasks:
        return False
    wanted = Requirements.parse(plan.requirements)
    if wanted is None:
        return True
    header = Header.of_request(request) or Header({})
    if wanted.memory_mb > header.memory_mb:
        return False  # nobody has counted that memory for the task that waits
    node = NodeTable(client).read().get(header.node or "")
    return node is not None and not wanted.missing(node.facts)
