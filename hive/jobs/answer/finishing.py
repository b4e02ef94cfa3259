"""`hive.finish`: what runs when the pullers have returned.

The task sends them again if something is left; else it reduces, and ends the job.
"""

from __future__ import annotations

import time
from typing import Any

from celery import Celery, Task, shared_task

from hive.broker.channel.entries import Entry
from hive.broker.channel.header import Header
from hive.broker.channel.time_limits import LIFTED
from hive.broker.link.client import BrokerClient, client_of
from hive.errors import UnknownJobError
from hive.jobs.answer.value import built_in_value, ordered_values
from hive.jobs.input.launch import FINISH, send_pullers
from hive.jobs.state import steps
from hive.jobs.state.ending import conclude
from hive.jobs.state.outcomes import error_text
from hive.jobs.state.plan import Plan, stored_plan
from hive.jobs.state.reduce import BUILT_IN
from hive.jobs.work.calls import run_reduce
from hive.jobs.work.in_place import request_in_place
from hive.jobs.work.patience import patiently
from hive.jobs.work.puller import message_id
from hive.jobs.work.time_limit import ItemInterrupted, TimeLimit
from hive.logs import get_logger

log = get_logger(__name__)

STALLED_ROUNDS = 3


@shared_task(
    name=FINISH,
    bind=True,
    max_retries=None,
    acks_late=True,
    acks_on_failure_or_timeout=False,
    reject_on_worker_lost=True,
    ignore_result=True,
)
def finish(self: Task[..., None], job_id: str) -> None:
    """Body and errback of a job's chord: whichever way its pullers ended, the job does too.

    Running it twice changes nothing, and so does asking twice: a broker that is away is waited for.
    """
    client = client_of(self.app)
    try:
        plan = patiently(lambda: stored_plan(client, job_id), job_id)
    except UnknownJobError as unread:
        log.error(
            "unreadable_job", job_id=job_id, node=self.request.hostname, reason=unread.message
        )
        # Perhaps on a node of the release that made it; not often, where there is none.
        raise self.retry(countdown=min(60.0, 2.0 ** min(self.request.retries, 6))) from None
    if plan is None:
        return
    facts = (client.settings.hive_max_retries + 1, STALLED_ROUNDS, message_id(self))
    reply = patiently(lambda: steps.run(client, steps.RETURNED, job_id, *facts), job_id)
    match reply[0]:
        case b"wait":
            raise self.retry(countdown=1.0)
        case b"more":
            waiting, stalled = int(reply[1]), int(reply[2])
            log.warning("job_goes_on", job_id=job_id, waiting=waiting, stalled=stalled)
            send_pullers(
                self.app,
                job_id,
                plan,
                min(plan.slots, waiting or plan.slots),
                countdown=1.0 if stalled else 0.0,
            )
        case b"reduce":
            deaths = patiently(lambda: deaths_of(client, message_id(self)), job_id)
            value, error = reduced(self.app, client, job_id, plan, tries=deaths)
            patiently(lambda: conclude(client, job_id, value, error), job_id)


def deaths_of(client: BrokerClient, publish_id: str) -> int:
    """Deliveries of a message that died. What its header tells counts silences, too.

    Raises: redis errors.
    """
    packed = client.redis.hget(client.key("entries"), publish_id)
    return 0 if packed is None else Entry.head(publish_id, packed).deaths


def reduce_limit(app: Celery, client: BrokerClient, plan: Plan) -> float:
    """Seconds that a job's reduce task may run."""
    task = app.tasks.get(plan.reduce_call.name)
    own = getattr(task, "soft_time_limit", None) or getattr(task, "time_limit", None)
    return float(own or client.settings.hive_task_timeout)


def reduced(
    app: Celery, client: BrokerClient, job_id: str, plan: Plan, *, tries: int
) -> tuple[Any, str]:
    """The reduced value and "", or None and what went wrong.

    task: this run of `hive.finish`. tries: runs of this very reduce whose process died.
    """
    if plan.reduce is None:
        return None, ""
    name = plan.reduce_call.name or plan.reduce
    try:
        if plan.reduce in BUILT_IN:
            return patiently(lambda: built_in_value(client, job_id, name), job_id), ""
        if tries >= max(1, client.settings.hive_max_retries):
            return None, f"The reduce task {name} killed its worker {tries} times."
        return _reduce_task_value(app, client, job_id, plan), ""
    except ItemInterrupted as interrupted:
        return None, f"The reduce {name!r} {interrupted.why}."
    except Exception as error:
        log.exception("reduce_failed", job_id=job_id, reduce=name)
        return None, f"The reduce {name!r} failed: {error_text(error)}"


def _reduce_task_value(app: Celery, client: BrokerClient, job_id: str, plan: Plan) -> Any:
    """What the user's reduce task returns. Raises: what it raises."""
    values = patiently(lambda: ordered_values(client, job_id), job_id)
    request = request_in_place(f"{job_id}:reduce", "", Header({}))
    soft, _ = plan.reduce_limits or (LIFTED, LIFTED)
    with TimeLimit(soft) as limit:
        limit.started = time.perf_counter()
        try:
            return run_reduce(app, plan.reduce_call, values, request)
        finally:
            limit.started = None
