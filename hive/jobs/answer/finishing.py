"""`hive.finish`: what runs when the pullers have returned.

The task sends them again if something is left; else it reduces, and ends the job.
"""

from __future__ import annotations

from celery import Task, shared_task

from hive.broker.channel.entries import Entry
from hive.broker.channel.header import Header
from hive.broker.link.client import BrokerClient, client_of
from hive.broker.results.on_broker import ON_BROKER
from hive.errors import UnknownJobError
from hive.jobs.answer.reducing import Reducer, RunsAgain, note_retry, reduced
from hive.jobs.input.launch import FINISH, send_pullers
from hive.jobs.state import steps
from hive.jobs.state.ending import conclude
from hive.jobs.state.plan import Plan, stored_plan
from hive.jobs.work.patience import patiently
from hive.jobs.work.puller import message_id
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
    **ON_BROKER,
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
            raise self.retry(countdown=int(reply[1]) / 1000)
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
            _reduce_and_end(self, client, job_id, plan)


def _reduce_and_end(task: Task[..., None], client: BrokerClient, job_id: str, plan: Plan) -> None:
    """End the job with its reduced value, or, when the reduce is retried, send `finish` again."""
    deaths = patiently(lambda: deaths_of(client, message_id(task)), job_id)
    header = Header.of_task(task) or Header({})
    by = Reducer(task.app, header, str(task.request.hostname), deaths)
    try:
        value, error = reduced(by, client, job_id, plan)
    except RunsAgain as asked:
        retrial = asked.retrial
        patiently(lambda: note_retry(client, job_id, retrial), job_id)
        raise task.retry(countdown=retrial.ms_left / 1000) from None
    patiently(lambda: conclude(client, job_id, value, error), job_id)


def deaths_of(client: BrokerClient, publish_id: str) -> int:
    """Deliveries of a message that died. What its header tells counts silences, too.

    Raises: redis errors.
    """
    packed = client.redis.hget(client.key("entries"), publish_id)
    return 0 if packed is None else Entry.head(publish_id, packed).deaths
