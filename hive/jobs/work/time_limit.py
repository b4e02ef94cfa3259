"""Interrupting an item that runs too long, in the main thread of a pool process.

One timer serves all of a puller's items: it looks when the item that is running began, so that to
start an item costs nothing. Elsewhere (in thread pools) Python cannot interrupt code, and the limit
is not enforced.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Literal

from celery.exceptions import SoftTimeLimitExceeded

_NO_LIMIT = float("inf")


class ItemInterrupted(SoftTimeLimitExceeded):
    """Raised inside an item that has to stop.

    A skill may catch it, as Celery's SoftTimeLimitExceeded, and clean up.
    """

    def __init__(self, status: Literal["timeout", "cancelled"], why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why

    def __str__(self) -> str:
        return self.why


def _too_late(_signal: int, _frame: FrameType | None) -> None:
    """The item that was to be interrupted has ended."""


class TimeLimit:
    """Limits each item to `limit` seconds, and all of them to the job's deadline.

    A context manager around a puller's run.

    `started` is set to time.perf_counter() right before an item and to None right after it, inside
    a try that records what is raised. `over` becomes true when no further item is to be started:
    the job was cancelled, or its deadline has passed.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.started: float | None = None
        self.over = False
        self.active = threading.current_thread() is threading.main_thread() and hasattr(
            signal, "setitimer"
        )
        self._deadline = _NO_LIMIT
        self._cancelled = False
        self._before: Any = None

    def __enter__(self) -> TimeLimit:
        if self.active:
            self._before = signal.signal(signal.SIGALRM, self._fire)
            self._arm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.active:
            signal.setitimer(signal.ITIMER_REAL, 0)
            # The default action must not come back: a signal still on its way would end the
            # process.
            signal.signal(signal.SIGALRM, self._before if callable(self._before) else _too_late)

    def set_deadline(self, seconds_left: float) -> None:
        """The job's deadline is that far away."""
        self._deadline = time.perf_counter() + max(seconds_left, 0.0)
        self._arm()

    def cancel(self) -> None:
        """Interrupt the item that is running; for other threads."""
        if self.active:
            self._cancelled = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def _arm(self) -> None:
        if not self.active:
            return
        now = time.perf_counter()
        limit = self.limit if self.started is None else self.started + self.limit - now
        next_look = limit if self.over else min(limit, self._deadline - now)
        signal.setitimer(signal.ITIMER_REAL, max(0.001, next_look))

    def _fire(self, _signal: int, _frame: FrameType | None) -> None:
        now = time.perf_counter()
        self.over = self._cancelled or now >= self._deadline
        started, self.started = self.started, None
        reason = None if started is None else self._reason(now - started)
        if reason is None:
            self.started = started
        self._arm()
        if reason is not None:
            raise reason

    def _reason(self, seconds: float) -> ItemInterrupted | None:
        if self._cancelled:
            return ItemInterrupted("cancelled", "the job was cancelled while it ran")
        if self.over:
            return ItemInterrupted("timeout", "the job's deadline passed while it ran")
        if seconds >= self.limit:
            return ItemInterrupted("timeout", f"ran longer than {self.limit:g} s")
        return None
