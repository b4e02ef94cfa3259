"""How a spore's worker finishes a message.

The outcome is counted, and a slot that becomes free asks for work at once.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import redis
from celery.exceptions import (
    Ignore,
    InvalidTaskError,
    Reject,
    Retry,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.worker.request import Request as CeleryRequest

from hive.broker.channel.header import Header
from hive.broker.channel.incarnation import Incarnation, Outcome, current
from hive.broker.results.backend import Backend
from hive.logs import get_logger
from hive.spore.machine.deaths import Deaths
from hive.spore.machine.footprint import Footprint

log = get_logger(__name__)

NAME = "hive.spore.request:Request"

_OF_THE_POOL = (WorkerLostError, TimeLimitExceeded, Terminated)


class Request(CeleryRequest):
    """Celery's request, named to it by the task attribute `Request`."""

    footprint: Footprint | None = None
    """The memory of a run that demands some; the heartbeat looks at it."""
    _error: BaseException | None = None  # what ended the run, unless that was a value

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(message, *args, **kwargs)
        except InvalidTaskError:
            raise
        except Exception as error:  # it does nothing but read the message
            raise InvalidTaskError(f"{type(error).__name__}: {error}") from error
        told: dict[str, Any] = self.request_dict
        header = Header.read(told)
        self._memory_mb = header.memory_mb
        due = header.due
        # The task sees its eta; the worker must not (see `eta`).
        if due is not None:
            # A stranger's time may be in no calendar.
            with contextlib.suppress(OverflowError, ValueError):
                told["eta"] = datetime.fromtimestamp(due, UTC).isoformat()
        incarnation = current()
        # A message that was sent by the task's name alone does not tell its limit.
        if incarnation is not None and self.time_limits[0] is None:
            incarnation.note_limit(message.delivery_tag, self.task.time_limit or 0)

    @property
    def eta(self) -> datetime | None:
        """None for a task's message: that is due, and Celery would hold it once more, in a slot."""
        incarnation = current()
        if incarnation is not None and incarnation.owns(self.message.delivery_tag):
            return None
        return super().eta

    def _note(self, outcome: Outcome | None) -> Incarnation | None:
        incarnation = current()
        if incarnation is not None:
            incarnation.note_outcome(self.message.delivery_tag, outcome)
        return incarnation

    def acknowledge(self) -> None:
        super().acknowledge()
        incarnation = current()
        if incarnation is not None:
            incarnation.nudge()

    def reject(self, requeue: bool = False) -> None:
        incarnation = current()
        if incarnation is not None and requeue and self._error is not None:
            deaths: Deaths = self.task.app.hive_deaths  # type: ignore[attr-defined]
            reason = deaths.reason(self._error)
            incarnation.note_reason(self.message.delivery_tag, reason)
        super().reject(requeue=requeue)
        if incarnation is not None:
            incarnation.nudge()

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        if self._memory_mb:
            self.footprint = Footprint(self._memory_mb, pid)
        super().on_accepted(pid, time_accepted)
        incarnation = current()
        if incarnation is not None and getattr(self.task, "hive_acks_early", False):
            try:
                incarnation.mark_early(self.message.delivery_tag)
            except redis.exceptions.RedisError as error:
                # The task runs all the same. Should its node die now, it would run again.
                log.warning("start_not_marked", task_id=self.id, error=str(error))

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        error = self._error = getattr(exc_info.exception, "exc", exc_info.exception)
        if not isinstance(error, Retry | Ignore | Reject):
            self._note("failed")
        elif isinstance(error, Ignore) and self._context.chord:  # type: ignore[attr-defined]
            backend = self.task.backend
            if isinstance(backend, Backend):
                backend.end_ignored_member(self._context)  # type: ignore[attr-defined]
        if isinstance(error, MemoryError) or (return_ok and isinstance(error, _OF_THE_POOL)):
            # Celery would end the whole worker, or take the process for lost. But the task raised
            # it, perhaps as another's result that it waited for, and that is its own result.
            exc_info.exception = RuntimeError(f"{type(error).__name__}: {error}")
        super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_retry(self, exc_info: Any) -> None:
        self._note("retried")
        super().on_retry(exc_info)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if not soft:
            self._note("failed")
        super().on_timeout(soft, timeout)

    def _success_was_stored(self) -> Any:
        """Whether a task whose process was lost counts as done, since its success was stored.

        A chord's member does not: its process may have been killed before it published the chord's
        body. It is delivered again.
        """
        if self._context.chord:  # type: ignore[attr-defined]
            return False
        return super()._success_was_stored()  # type: ignore[misc]

    def revoked(self) -> bool:
        self._note("revoked")
        answer = bool(super().revoked())
        if not answer:
            self._note(None)
        return answer


def acknowledge_late(tasks: Any) -> None:
    """Let tasks that declare early acknowledgement keep their slot until they are done.

    With a real early acknowledgement a node of 2 slots took 4. Such a task is marked as started
    instead, and a death of its process drops it, which is what it asked for.
    """
    for task in tasks:
        if not task.acks_late:
            task.hive_acks_early = True
            task.acks_late = True
            task.reject_on_worker_lost = False
