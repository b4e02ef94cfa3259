"""`hive.finish`: what runs when the pullers have returned. It sends them again if something is left, reduces, and ends the job."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from celery import Celery, Signature, Task, shared_task
from celery.utils import uuid
from celery.utils.functional import regen

from hive.broker.channel.publishing import following_up
from hive.broker.link.client import BrokerClient, client_of
from hive.errors import InvalidInputError
from hive.jobs.answer.stream import StreamPosition, read_now
from hive.jobs.state import steps
from hive.jobs.state.outcomes import error_text, from_json, successful_values, to_json
from hive.jobs.state.plan import MARGIN, Plan, stored_plan
from hive.jobs.state.reduce import BUILT_IN, FOLDED, reduce_values
from hive.jobs.work.calls import run_reduce
from hive.jobs.work.puller import PULL, message_id
from hive.logs import get_logger

log = get_logger(__name__)

FINISH = "hive.finish"
_STALLED_ROUNDS = 3


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
    """Body and errback of a job's chord: whichever way its pullers ended, the job does too. Running it twice changes nothing."""
    client = client_of(self.app)
    allowed = client.settings.hive_max_retries + 1
    plan = stored_plan(client, job_id)
    if plan is None:
        return
    reply = steps.run(client, steps.SETTLE, job_id, allowed, _STALLED_ROUNDS, message_id(self))
    match reply[0]:
        case b"wait":
            raise self.retry(countdown=1.0)
        case b"more":
            waiting, stalled = int(reply[1]), int(reply[2])
            log.warning("job_goes_on", job_id=job_id, waiting=waiting, stalled=stalled)
            send_pullers(self.app, job_id, plan, min(plan.slots, waiting or plan.slots), countdown=1.0 if stalled else 0.0)
        case b"reduce":
            value, error = _reduced(self.app, client, job_id, plan, tries=int(reply[1]))
            conclude(client, job_id, value, error)


def send_pullers(app: Celery, job_id: str, plan: Plan, pullers: int, countdown: float = 0.0) -> None:
    """Send a job's pullers as the header of a chord whose body, and errback, is `hive.finish`.

    It is published here and not by `chord.apply_async`, which subscribes to the result of every puller: nobody waits for those.

    countdown: seconds before they start. Raises: NoEligibleNodeError, QueueFullError, BrokerMemoryError, and kombu's OperationalError
        when the broker does not answer.
    """
    body = _finish_signature(app, job_id, plan)
    body.on_error(_finish_signature(app, job_id, plan))
    # The limit of an item is the puller's own business; these are for an item that cannot be interrupted.
    options: dict[str, Any] = {
        "queue": plan.queue,
        "soft_time_limit": plan.item_limit + MARGIN,
        "time_limit": plan.item_limit + 2 * MARGIN,
        "group_id": uuid(),
        "chord": body,
    }
    wishes = {"priority": plan.priority, "requirements": plan.requirements, "countdown": countdown or None}
    options |= {name: wish for name, wish in wishes.items() if wish is not None}
    ids = [uuid() for _ in range(pullers)]
    # As a chord does; the Redis backend does not look into a lazy list.
    app.backend.apply_chord((options["group_id"], regen(map(app.AsyncResult, ids))), body)
    app.backend.set_chord_size(options["group_id"], pullers)
    with app.producer_or_acquire() as producer, ExitStack() as rest:
        for index, task_id in enumerate(ids):
            own = {**options, "task_id": task_id, "group_index": index}
            app.tasks[PULL].apply_async((job_id,), producer=producer, add_to_parent=False, **own)
            if not index:  # a full queue refuses all of a job or nothing: part of a chord never ends
                rest.enter_context(following_up())


def send_finish(app: Celery, job_id: str, plan: Plan) -> None:
    """Send `hive.finish` by itself. Raises: kombu's OperationalError when the broker does not answer."""
    _finish_signature(app, job_id, plan).apply_async(add_to_parent=False)


def _finish_signature(app: Celery, job_id: str, plan: Plan) -> Signature[None]:
    options: dict[str, Any] = {"queue": plan.queue, "priority": 10, "task_id": uuid()}
    if plan.requirements and plan.reduce not in (None, *BUILT_IN):
        options["requirements"] = plan.requirements  # a reduce of the user's own: other nodes need not know it
    return app.tasks[FINISH].si(job_id).set(**options)


def launch(app: Celery, job_id: str, plan: Plan, pushed: int, *, complete: bool) -> None:
    """Set a job going whose first `pushed` items are stored; `complete` says that there are no more.

    Raises: as `send_pullers`.
    """
    client = client_of(app)
    if pushed:
        send_pullers(app, job_id, plan, min(plan.slots, pushed) if complete else plan.slots)
    elif plan.reduce is None or plan.reduce in BUILT_IN:
        conclude(client, job_id, None if plan.reduce is None else reduce_values(plan.reduce, ()))
    else:
        send_finish(app, job_id, plan)
    steps.run(client, steps.NOTE, job_id, "sent", "1")


def conclude(client: BrokerClient, job_id: str, value: Any, error: str = "") -> None:
    """End a job with its reduced value; only the first such call counts. A value that JSON cannot hold becomes an error."""
    try:
        written = to_json(value)
    except Exception as fault:  # noqa: BLE001 a value's own __json__ may raise anything
        written = "null"
        error = f"the reduced value, of type {type(value).__name__}, cannot be written as JSON ({error_text(fault)})"
    steps.run(client, steps.FINISH, job_id, written, error)


def ordered_values(client: BrokerClient, job_id: str) -> list[Any]:
    """The values of the items that succeeded so far, in item order."""
    position = StreamPosition()
    parts: list[tuple[int, list[Any]]] = []
    while entries := read_now(client, job_id, position):
        parts += [(entry.first, successful_values(entry)) for entry in entries]
    parts.sort(key=lambda part: part[0])
    return [value for _, values in parts for value in values]


def built_in_value(client: BrokerClient, job_id: str, name: str) -> Any:
    """The value, so far, of a built-in reduce.

    Raises: InvalidInputError when the values are not of a kind that the reduce takes.
    """
    if name == "count":
        return int(client.redis.hget(steps.job_key(client, job_id, "state"), "ok") or 0)
    if name not in FOLDED:
        return reduce_values(name, ordered_values(client, job_id))
    raw = client.redis.lrange(steps.job_key(client, job_id, "partials"), 0, -1)
    partials = sorted((from_json(part) for part in raw), key=lambda part: part[0])
    faults = [error for _, _, error in partials if error]
    if faults:
        raise InvalidInputError(faults[0])
    return reduce_values(name, [value for _, value, _ in partials])


def _reduced(app: Celery, client: BrokerClient, job_id: str, plan: Plan, *, tries: int) -> tuple[Any, str]:
    """The reduced value and "", or None and what went wrong."""
    if plan.reduce is None:
        return None, ""
    try:
        if plan.reduce in BUILT_IN:
            return built_in_value(client, job_id, plan.reduce), ""
        if tries >= max(1, client.settings.hive_max_retries):
            return None, f"The reduce task {plan.reduce_task} killed its worker {tries} times."
        return run_reduce(app, plan.reduce_task or "", ordered_values(client, job_id)), ""
    except Exception as error:
        log.exception("reduce_failed", job_id=job_id, reduce=plan.reduce_task or plan.reduce)
        return None, f"The reduce {plan.reduce_task or plan.reduce!r} failed: {error_text(error)}"
