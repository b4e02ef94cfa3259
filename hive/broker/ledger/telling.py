"""Storing FAILURE for dead letters, so that nobody waits for their results for ever."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable
from typing import Any

from celery import Celery, states
from kombu.exceptions import EncodeError

from hive.broker.channel.entries import UNREADABLE, Entry
from hive.broker.channel.publishing import following_up
from hive.broker.link.client import BrokerClient
from hive.errors import DeadLetterError, InvalidInputError
from hive.logs import get_logger

log = get_logger(__name__)

_ITS_OWN = (ValueError, TypeError, LookupError, AttributeError, EncodeError, InvalidInputError)
"""What storing raises for the sake of the one message; all else is the result backend's."""


def tell(
    app: Celery, client: BrokerClient, publish_ids: Iterable[str], until: float = math.inf
) -> dict[str, Exception]:
    """Store FAILURE for dead letters.

    until: when to begin no other (monotonic seconds).

    Returns: what the result backend raised, by the publish ids of those that stay untold for it.
    Raises: redis errors of the broker.
    """
    faults: dict[str, Exception] = {}
    for publish_id in publish_ids:
        if time.monotonic() > until:
            break
        packed = client.redis.hget(client.key("entries"), publish_id)
        row = client.redis.hget(client.key("dead"), publish_id)
        if packed is not None and row is not None:
            try:
                _store_failure(app, publish_id, packed, split_row(row)[1])
            except Exception as fault:  # noqa: BLE001 - one that cannot be told hinders no other
                faults[publish_id] = fault
                continue
        client.redis.srem(client.key("untold"), publish_id)
    return faults


def split_row(value: bytes) -> tuple[int, str]:
    """When a dead letter died (ms), and of what."""
    ms, _, reason = value.decode(errors="replace").partition("|")
    return int(ms) if ms.isdecimal() else 0, reason


def _store_failure(app: Celery, publish_id: str, packed: bytes, reason: str) -> None:
    """Raises: what the result backend raised, where it has not stored the failure."""
    try:
        entry = Entry.unpack(publish_id, packed)
    except ValueError:
        entry = Entry.head(publish_id, packed)
    request = entry.context()
    task = app.tasks.get(entry.task_name)
    backend: Any = app.backend if task is None else task.backend
    if entry.task_id and not entry.headers.get("ignore_result"):
        what = f"{entry.task_name}[{entry.task_id}]"
        died = "" if reason.startswith(UNREADABLE) else f" died {entry.deaths} times"
        error = DeadLetterError(f"{what}{died} ({reason}); it is a dead letter now.")
        try:
            with following_up():  # its error callbacks are sent in it
                backend.mark_as_failure(entry.task_id, error, request=request)
        except Exception as fault:
            if not isinstance(fault, _ITS_OWN) and not _has_ended(backend, entry.task_id):
                raise
            # It, its callbacks or its chord would fail again.
            log.exception("dead_letter_not_told", publish_id=publish_id)
            if not _has_ended(backend, entry.task_id):
                with contextlib.suppress(*_ITS_OWN):
                    backend.store_result(entry.task_id, error, states.FAILURE)
    log.error(
        "dead_letter",
        task_id=entry.task_id,
        task=entry.task_name,
        deaths=entry.deaths,
        reason=reason,
    )


def _has_ended(backend: Any, task_id: str) -> bool:
    """Whether who waits for that result has it."""
    try:
        return backend.get_state(task_id) in states.READY_STATES
    except Exception:  # noqa: BLE001 - a backend that is away raises anything
        return False
