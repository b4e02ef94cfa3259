"""What a reader of a job does when nothing comes.

So a job always ends, also when no worker is there to end it.
"""

from __future__ import annotations

import time

from celery import Celery
from kombu.exceptions import OperationalError

from hive.broker.link.client import client_of
from hive.errors import InvalidInputError, UnknownJobError
from hive.jobs.answer import finishing  # noqa: F401 - it registers the tasks that are sent here
from hive.jobs.answer.value import built_in_value
from hive.jobs.input.launch import send_finish
from hive.jobs.state import steps
from hive.jobs.state.ending import conclude
from hive.jobs.state.outcomes import error_text
from hive.jobs.state.plan import Plan
from hive.jobs.state.reduce import BUILT_IN
from hive.logs import get_logger

log = get_logger(__name__)

_OVERDUE = 2.0
"""Seconds after its deadline at which a waiting reader ends the job: where there are workers, its
own `finish` is quicker.
"""
_NO_REDUCE = 15.0
_LONGEST_LOOK = 2.0
_QUIET = 5.0
_LOOK_EVERY = 0.9
_AGAIN = 30.0


class JobWatch:
    """Looks after a job for one reader, which calls `look` while nothing comes and it is due."""

    def __init__(self, app: Celery, job_id: str, plan: Plan) -> None:
        self._app = app
        self._client = client_of(app)
        self._job_id = job_id
        self._plan = plan
        self._all_done_since: float | None = None
        self._looked_at = time.monotonic()
        self._look_at = self._looked_at
        self._overdue = 0.0
        self._nudged = -_AGAIN

    @property
    def due(self) -> bool:
        """Whether it is time to look: at first, and about a second after each look."""
        return time.monotonic() >= self._look_at

    def look(self) -> None:
        """Ask once. Raises: UnknownJobError when the job has expired, redis errors."""
        self._look_at = time.monotonic() + _LOOK_EVERY
        reply = steps.run(self._client, steps.WATCH, self._job_id)
        state = reply[0]
        if state == b"expired":
            raise UnknownJobError(
                f"No job has the id {self._job_id!r}, or its results have expired."
            )
        if state == b"orphan":
            self._stop("cancelled", "the caller was gone before the job was sent", cut=True)
            conclude(
                self._client,
                self._job_id,
                None,
                "The process that made the job was gone before any of it was sent to the workers.",
            )
        now = time.monotonic()
        if state == b"overdue":
            # Nobody could end it while the broker was away, and nobody looked.
            self._overdue += min(now - self._looked_at, _LONGEST_LOOK)
            if self._overdue > _OVERDUE:
                self._end_overdue()
        self._looked_at = now
        if state == b"done":
            self._expect_the_end()
        else:
            self._all_done_since = None

    def _end_overdue(self) -> None:
        """The deadline passed and nothing ended the job: no node is there, or none can interrupt
        what it runs.
        """
        self._stop("timeout", "the job's deadline passed first")
        reduce = self._plan.reduce
        if reduce is None or reduce in BUILT_IN:
            value, error = self._built_in(reduce)
            conclude(self._client, self._job_id, value, error)
        elif self._overdue > _NO_REDUCE or not int(self._client.redis.hget(self._state, "ok") or 0):
            reduce_task = self._plan.reduce_call.name
            error = f"The deadline passed, and no node was there to run the reduce {reduce_task}."
            conclude(self._client, self._job_id, None, error)
        else:
            self._send_finish()

    def _built_in(self, reduce: str | None) -> tuple[object, str]:
        if reduce is None:
            return None, ""
        try:
            return built_in_value(self._client, self._job_id, reduce), ""
        except InvalidInputError as error:
            return None, f"The reduce {reduce!r} failed: {error_text(error)}"

    @property
    def _state(self) -> str:
        return steps.job_key(self._client, self._job_id, "state")

    def _stop(self, status: str, why: str, *, cut: bool = False) -> None:
        steps.run(self._client, steps.STOP, self._job_id, status, why, 1, int(cut))

    def _expect_the_end(self) -> None:
        """All items have their outcomes: if the end does not come, send `finish` again.

        The process that was to send it may have died.
        """
        now = time.monotonic()
        if self._all_done_since is None:
            self._all_done_since = now
        if now - self._all_done_since > _QUIET:
            self._send_finish()

    def _send_finish(self) -> None:
        now = time.monotonic()
        if now - self._nudged < _AGAIN:
            return
        self._nudged = now
        log.warning("finish_sent_again", job_id=self._job_id)
        try:
            send_finish(self._app, self._job_id, self._plan)
        except OperationalError as error:
            log.warning("finish_not_sent", job_id=self._job_id, error=str(error))
