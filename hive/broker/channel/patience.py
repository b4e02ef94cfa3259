"""How long accepted work waits for a broker that is away, or refuses for now."""

# celery-types and redis-py type these loosely.
# mypy: disable-error-code="override"

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import redis
from billiard.exceptions import SoftTimeLimitExceeded
from redis.backoff import NoBackoff
from redis.retry import Retry

from hive.broker.channel.publishing import follows_up
from hive.broker.link.outage import passes
from hive.logs import get_logger

log = get_logger(__name__)

_PAUSE = 0.5


def endures() -> bool:
    """Whether what is being done here belongs to accepted work.

    Such work must not fail for want of a broker: it waits, unless its worker is told to stop.
    """
    state = sys.modules.get("celery.worker.state")
    told = [getattr(state, name, None) for name in ("should_stop", "should_terminate")]
    return follows_up() and all(order is None or order is False for order in told)


def pause(error: BaseException, waited_since: float | None) -> float:
    """Wait a little before the next try.

    Returns: since when it is being waited for (monotonic seconds).
    """
    if waited_since is None:
        log.warning("waits_for_broker", error=str(error))
        waited_since = time.monotonic()
    try:
        time.sleep(_PAUSE)
    except SoftTimeLimitExceeded:
        log.warning("soft_time_limit_passed_over", reason="the task waits for its broker")
    return waited_since


class Patience(Retry):
    """redis-py's retries, for the results of tasks.

    A caller's command is tried twice, since its connection may have died while it was idle. Within
    a spore's work it is tried without end, which the task's time limit bounds. Every command of the
    result backend may be repeated: a state is stored once, a chord's member counted once.
    """

    def __init__(self) -> None:
        super().__init__(NoBackoff(), 0)

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """Do it, as redis-py calls it; after each failure the connection is made anew (`fail`)."""
        failures, waited_since = 0, None
        while True:
            try:
                return do()
            except SoftTimeLimitExceeded:
                if waited_since is None:
                    raise
            except (redis.exceptions.RedisError, OSError) as error:
                if not passes(error) or (is_retryable and not is_retryable(error)):
                    raise
                failures += 1
                fail(error, failures) if with_failure_count else fail(error)
                if endures():
                    waited_since = pause(error, waited_since)
                elif failures > 1:
                    raise
