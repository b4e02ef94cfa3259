"""What a task does while it waits for a job: it works on it, and ends it when all is done.

The errand of `Job`, inside of tasks. Ending is part of it, since `hive.finish` needs a slot, too.
"""

from __future__ import annotations

import asyncio

from celery import Celery

from hive.broker.in_hand import request_in_hand
from hive.broker.link.client import client_of
from hive.broker.link.outage import PAUSE, passes
from hive.jobs.answer.errands import Errand
from hive.jobs.answer.finishing import STALLED_ROUNDS
from hive.jobs.answer.reducing import Reducer, RunsAgain, note_retry, reduced
from hive.jobs.input.launch import send_finish
from hive.jobs.state import steps
from hive.jobs.state.ending import conclude
from hive.jobs.state.plan import Plan
from hive.jobs.work.helping import Helper, can_help
from hive.jobs.work.time_limit import InnerTimeLimit
from hive.logs import get_logger

log = get_logger(__name__)

_SHORTEST, _LONGEST = 0.01, 0.25
"""Seconds between two looks whether there is something to do again."""


class Helping:
    """An errand: a turn is a short lease, or one item, or the reduce."""

    def __init__(self, app: Celery, job_id: str, plan: Plan, helper: Helper) -> None:
        self._app = app
        self._client = client_of(app)
        self._job_id = job_id
        self._plan = plan
        self._helper = helper
        self._pause = _SHORTEST

    def asked(self) -> None:
        """Nothing is to be prepared."""

    def turn(self) -> float:
        """Run a lease. Raises: what interrupts the task."""
        with InnerTimeLimit(self._plan.item_limit) as limit:
            try:
                pause = self._turn(limit)
            except Exception as error:
                # What interrupts the task may be an OSError, too.
                if limit.outer_error is None and not passes(error):
                    raise
                pause = PAUSE
        if limit.outer_error is not None:
            raise limit.outer_error
        return pause

    def _turn(self, limit: InnerTimeLimit) -> float:
        went = self._helper.work(limit)
        if went == "worked" or (went == "done" and self._finish()):
            self._pause = _SHORTEST
            return 0.0
        self._pause, pause = min(2 * self._pause, _LONGEST), self._pause
        return pause

    async def turn_async(self) -> float:
        """Run a lease in a thread beside the event loop."""
        return await asyncio.to_thread(self.turn)

    def left(self, *, over: bool) -> None:
        """Nothing is held between two turns."""

    def _finish(self) -> bool:
        """End the job, all of whose items have their outcomes, unless another is at it."""
        facts = (self._helper.attempts_allowed, STALLED_ROUNDS, self._helper.owner)
        if steps.run(self._client, steps.RETURNED, self._job_id, *facts)[0] != b"reduce":
            return False
        by = Reducer(self._app, self._helper.header, self._helper.node, limit=InnerTimeLimit)
        try:
            value, error = reduced(by, self._client, self._job_id, self._plan)
        except RunsAgain as asked:
            note_retry(self._client, self._job_id, asked.retrial)
            return False
        except BaseException:
            # What interrupts the task, or ends its process: another reduces.
            self._leave_it_to_others()
            raise
        conclude(self._client, self._job_id, value, error)
        return True

    def _leave_it_to_others(self) -> None:
        try:
            steps.run(self._client, steps.NOTE, self._job_id, "reducer", "")
            send_finish(self._app, self._job_id, self._plan)
        except Exception as error:  # noqa: BLE001 - what interrupts the task is raised instead
            log.warning("finish_not_sent", job_id=self._job_id, error=str(error))


def helping(app: Celery, job_id: str, plan: Plan) -> list[Errand]:
    """The errand of whoever waits for a job inside of a task, if it may run the job's items.

    Raises: redis errors.
    """
    request = request_in_hand()
    if request is None or not can_help(client_of(app), app, request, plan):
        return []
    return [Helping(app, job_id, plan, Helper(app, request, job_id, plan))]
