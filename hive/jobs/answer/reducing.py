"""Reducing a job's values, in the process that runs `hive.finish` or waits for the job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import Celery

from hive.broker.channel.header import Header
from hive.broker.channel.time_limits import LIFTED
from hive.broker.link.client import BrokerClient
from hive.jobs.answer.value import built_in_value, ordered_values
from hive.jobs.state import steps
from hive.jobs.state.outcomes import error_text
from hive.jobs.state.plan import Plan
from hive.jobs.state.reduce import BUILT_IN
from hive.jobs.work.again import Again, Retrial, is_sent_again, retrial_of
from hive.jobs.work.in_place import InPlace, request_in_place
from hive.jobs.work.patience import patiently
from hive.jobs.work.time_limit import ItemInterrupted, TimeLimit
from hive.logs import get_logger

log = get_logger(__name__)


class RunsAgain(Exception):  # noqa: N818 it tells of no error
    """A reduce asked to be run again."""

    def __init__(self, retrial: Retrial) -> None:
        super().__init__(retrial)
        self.retrial = retrial


class _Outer(Exception):  # noqa: N818 as above
    """What interrupts the task around says nothing about the reduce."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True, slots=True)
class Reducer:
    """Who reduces: a run of `hive.finish`, or a task that waits for the job.

    header, node: of the message under which it does. deaths: runs of this very reduce whose process
    died. limit: makes the time limit of a reduce task.
    """

    app: Celery
    header: Header
    node: str
    deaths: int = 0
    limit: Callable[[float], TimeLimit] = TimeLimit


def reduced(by: Reducer, client: BrokerClient, job_id: str, plan: Plan) -> tuple[Any, str]:
    """The reduced value and "", or None and what went wrong.

    Raises: RunsAgain where a reduce task asked for a retry; what interrupts the task around.
    """
    if plan.reduce is None:
        return None, ""
    name = plan.reduce_call.name or plan.reduce
    try:
        if plan.reduce in BUILT_IN:
            return patiently(lambda: built_in_value(client, job_id, name), job_id), ""
        if by.deaths >= max(1, client.settings.hive_max_retries):
            return None, f"The reduce task {name} killed its worker {by.deaths} times."
        return _reduce_task_value(by, client, job_id, plan), ""
    except RunsAgain:
        raise
    except _Outer as outer:
        raise outer.error from None
    except ItemInterrupted as interrupted:
        return None, f"The reduce {name!r} {interrupted.why}."
    except Exception as error:
        log.exception("reduce_failed", job_id=job_id, reduce=name)
        return None, f"The reduce {name!r} failed: {error_text(error)}"


def _reduce_task_value(by: Reducer, client: BrokerClient, job_id: str, plan: Plan) -> Any:
    """What the user's reduce task returns.

    Raises: RunsAgain when it is to be retried, and what it raises.
    """
    again = patiently(lambda: _known_of_reduce(client, job_id), job_id)
    values = patiently(lambda: ordered_values(client, job_id), job_id)
    own = again.arguments or plan.reduce_call.with_own((values,), {})
    reduce = by.app.tasks[plan.reduce_call.name]
    request = request_in_place(f"{job_id}:reduce", by.node, by.header)
    request.args, request.kwargs, request.retries = *own, again.retries
    soft, _ = plan.reduce_limits or (LIFTED, LIFTED)
    with by.limit(soft) as limit, InPlace(reduce) as in_place:
        limit.started = time.perf_counter()
        try:
            return in_place.run(request)
        except BaseException as error:
            limit.started = None
            if limit.outer_error is not None:
                raise _Outer(limit.outer_error) from None
            if not is_sent_again(error):
                raise
            raise RunsAgain(retrial_of(by.app, error, again, own)) from None
        finally:
            limit.started = None


def _known_of_reduce(client: BrokerClient, job_id: str) -> Again:
    """What is known of a job's reduce from runs that ended in a retry."""
    return Again.read(
        client.redis.hget(steps.job_key(client, job_id, "state"), "reduce_again") or b""
    )


def note_retry(client: BrokerClient, job_id: str, retrial: Retrial) -> None:
    """Keep what the reduce's next run has to know; until it is due nobody else reduces."""
    seconds, micros = client.redis.time()
    due = seconds * 1000 + micros // 1000 + retrial.ms_left
    facts = ("reduce_again", retrial.again.stored(), "reduce_due", due, "reducer", "")
    steps.run(client, steps.NOTE, job_id, *facts)
