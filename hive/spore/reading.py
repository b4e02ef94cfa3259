"""Whether a message is that of a task, before Celery's worker looks at it.

Celery writes what it sends so that it can be read. But a queue is open to other programs, and what
is amiss in a message would end the worker, or be thrown away, where nobody is told.
"""

from __future__ import annotations

from typing import Any

from celery.exceptions import InvalidTaskError

from hive.broker.channel.entries import task_body
from hive.broker.link.moments import LONGEST


def require_task(message: Any, told: Any) -> None:
    """Look whether a worker can make a request of a message.

    told: its headers; in Celery's protocol 1 its body.

    Raises: InvalidTaskError for what is no task; kombu's DecodeError and ContentDisallowed for a
        body that cannot be read.
    """
    try:
        task_body(message.payload)
    except ValueError as error:
        raise InvalidTaskError(str(error)) from None
    if not isinstance(told.get("id"), str) or not told["id"]:
        raise InvalidTaskError("it has no task id")
    if not isinstance(told.get("retries") or 0, int):
        raise InvalidTaskError("its number of retries is no whole number")
    limits = told.get("timelimit") or (None, None)
    if not isinstance(limits, list | tuple) or len(limits) != 2 or not all(map(_is_limit, limits)):
        raise InvalidTaskError("its time limits are not two numbers of seconds")


def _is_limit(limit: object) -> bool:
    return limit is None or (isinstance(limit, int | float) and 0 <= limit < LONGEST)
