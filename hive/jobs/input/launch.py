"""Setting a job going: its pullers as a chord whose body is `hive.finish`.

A job without items is ended here.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from typing import Any

from celery import Celery, Signature
from celery.utils.functional import regen

from hive.broker.channel.header import Header
from hive.broker.channel.publishing import derived_id, following_up, unrepeated
from hive.broker.link.client import client_of
from hive.broker.link.outage import until_back
from hive.broker.results.on_broker import results_on_broker
from hive.jobs.state import steps
from hive.jobs.state.ending import conclude
from hive.jobs.state.plan import MARGIN, TURN, Plan
from hive.jobs.state.reduce import BUILT_IN, reduce_values
from hive.logs import get_logger

log = get_logger(__name__)

PULL, FINISH = "hive.pull", "hive.finish"
"""The two tasks that a job is made of, by name: they are defined in rooms above this one."""


def send_pullers(
    app: Celery,
    job_id: str,
    plan: Plan,
    pullers: int,
    countdown: float = 0.0,
    *,
    first: bool = False,
) -> None:
    """Send a job's pullers as the header of a chord whose body, and errback, is `hive.finish`.

    It is published here and not by `chord.apply_async`, which subscribes to the result of every
    puller: nobody waits for those.

    countdown: seconds before they start.
    first: these are the job's first pullers. Sent again, they are the same messages, so that the
        job may be launched until it is.

    Raises: NoEligibleNodeError, QueueFullError, BrokerMemoryError, and BrokerUnreachableError or
        redis-py's connection errors when the broker does not answer.
    """

    def name(part: object) -> str:
        return str(uuid.uuid5(uuid.UUID(job_id), str(part)) if first else uuid.uuid4())

    body = _finish_signature(app, job_id, plan)
    body.on_error(_finish_signature(app, job_id, plan))
    # The puller itself limits each item. These limits are for an item that cannot be interrupted.
    longest = plan.item_limit + plan.turn - TURN
    options: dict[str, Any] = {
        "queue": plan.queue,
        "soft_time_limit": longest + MARGIN,
        "time_limit": longest + 2 * MARGIN,
        "group_id": name("group"),
        "chord": body,
    }
    wishes = {
        "priority": plan.priority,
        "requirements": plan.requirements,
        "countdown": countdown or None,
    }
    options |= {name: wish for name, wish in wishes.items() if wish is not None}
    ids = [name(index) for index in range(pullers)]
    with unrepeated(), app.producer_or_acquire() as producer, ExitStack() as rest:
        # A chord does this, too. The list is lazy, since the Redis backend does not look into one.
        backend = results_on_broker(app)
        backend.apply_chord((options["group_id"], regen(map(app.AsyncResult, ids))), body)
        backend.set_chord_size(options["group_id"], pullers)
        for index, task_id in enumerate(ids):
            own = {**options, "task_id": task_id, "group_index": index}
            if first:
                own["headers"] = Header.under_id(derived_id(task_id))
            app.tasks[PULL].apply_async((job_id,), producer=producer, add_to_parent=False, **own)
            # Once the first is accepted no full queue may refuse the others: part of a chord never
            # ends.
            if not index:
                rest.enter_context(following_up())


def send_finish(app: Celery, job_id: str, plan: Plan) -> None:
    """Send `hive.finish` by itself.

    Raises: kombu's OperationalError when the broker does not answer.
    """
    with unrepeated():
        _finish_signature(app, job_id, plan).apply_async(add_to_parent=False)


def _finish_signature(app: Celery, job_id: str, plan: Plan) -> Signature[None]:
    options: dict[str, Any] = {"queue": plan.queue, "priority": 10, "task_id": str(uuid.uuid4())}
    if plan.requirements and plan.reduce not in (None, *BUILT_IN):
        # The reduce is a task of the user's own, which other nodes need not know.
        options["requirements"] = plan.requirements
    if plan.reduce_limits is not None:
        # `finish` itself holds the soft limit. These are for a reduce that cannot be interrupted,
        # and leave time to gather its values.
        soft, hard = plan.reduce_limits
        options |= {"soft_time_limit": soft + MARGIN, "time_limit": hard + MARGIN}
    return app.tasks[FINISH].si(job_id).set(**options)


def launch(app: Celery, job_id: str, plan: Plan, pushed: int, *, complete: bool) -> None:
    """Set a job going whose first `pushed` items are stored.

    complete: whether there are no more.

    It may be done again when it failed: what was sent before is not sent twice. Once the first
    puller was accepted, the broker is waited for without end: half a chord never ends.

    Raises: as `send_pullers`.
    """
    client = client_of(app)
    if pushed:
        pullers = min(plan.slots, pushed) if complete else plan.slots
        send_pullers(app, job_id, plan, pullers, first=True)
    elif plan.reduce is None or plan.reduce in BUILT_IN:
        conclude(client, job_id, None if plan.reduce is None else reduce_values(plan.reduce, ()))
    else:
        send_finish(app, job_id, plan)
    until_back(
        lambda: steps.run(client, steps.NOTE, job_id, "sent", "1"),
        longest=float("inf"),
        waits=lambda error: log.warning("job_waits_for_broker", job_id=job_id, error=str(error)),
    )
