"""How a job's own tasks wait for a broker that is away: for as long as that takes.

What they have done is in their process alone, and would be done a second time if they gave up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from celery.exceptions import SoftTimeLimitExceeded

from hive.broker.link.outage import passes, until_back
from hive.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")


def patiently(
    step: Callable[[], T], job_id: str, *, waits: Callable[[], object] = lambda: None
) -> T:
    """Do a step that may be repeated, within a task of a job.

    The task's hard time limit is what ends the waiting. Its soft one may strike meanwhile; it is
    meant for an item, and none runs.

    waits: called before each pause. Raises: what the step raises while the broker is there.
    """
    waiting = False

    def away(error: Exception) -> bool:
        return passes(error) or (waiting and isinstance(error, SoftTimeLimitExceeded))

    def told(error: Exception) -> None:
        nonlocal waiting
        if not waiting:
            log.warning("puller_waits_for_broker", job_id=job_id, error=str(error))
        waiting = True
        waits()

    return until_back(step, longest=float("inf"), waits=told, away=away, sleep=_rest)


def _rest(seconds: float) -> None:
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        log.warning("soft_time_limit_passed_over", reason="the task waits for its broker")
