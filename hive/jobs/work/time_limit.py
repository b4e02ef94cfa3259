"""Interrupting an item that runs too long, in the main thread of a pool process.

A thread looks when the item that is running began, so that to start an item costs nothing, and
sends the main thread a signal of Hive's own when that was too long ago. SIGALRM and its timer are
the items': timeout decorators use them. Elsewhere (in thread pools) Python cannot interrupt code,
and the limit is not enforced.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from celery.exceptions import SoftTimeLimitExceeded

from hive.coroutines import interrupt, noted
from hive.jobs.work.leftovers import Leftovers, hear_no_signals

_NO_LIMIT = float("inf")
_SIGNAL = signal.SIGURG
"""Next to nobody uses it, and by default it does nothing: one that is still on its way when a run
ends does no harm.
"""
_AGAIN = 0.05
"""Seconds after which a signal is sent again that changed nothing: foreign code held it up."""
_LONGEST_WAIT = 3600.0

_Handler = Callable[[int, FrameType | None], Any]


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


class TimeLimit:
    """Limits each item to `limit` seconds, and all of them to the job's deadline.

    A context manager around a puller's run.

    `started` is set to time.perf_counter() right before an item and to None right after it, inside
    a try that records what is raised. `over` becomes true when no further item is to be started:
    the job was cancelled, or its deadline has passed, or there is an `outer_error`.

    Limits may be nested, where an item works on a job of its own: what interrupts the outer item
    is raised in the inner one, and kept in `outer_error`, since it says nothing about the inner.
    """

    _passed: tuple[signal.Signals, ...] = ()
    """Other signals by which the process around is interrupted, and not an item of this job."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.started: float | None = None
        self.over = False
        self.outer_error: BaseException | None = None
        self.active = threading.current_thread() is threading.main_thread() and hasattr(
            signal, "pthread_kill"
        )
        self.leftovers = Leftovers()
        self._deadline = _NO_LIMIT
        self._cancelled = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if not self.active:
            return self
        outer = signal.getsignal(_SIGNAL)
        self._handle(_SIGNAL, self._fire if not callable(outer) else self._after(outer))
        for number in self._passed:
            before = signal.getsignal(number)
            if callable(before):
                self._handle(number, self._passing(before))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (_SIGNAL,))
        own_alarm = bool(self._passed) or callable(outer)
        self.leftovers.note((_SIGNAL, signal.SIGALRM), own_alarm=own_alarm)
        _clock.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.active:
            return
        _clock.remove(self)
        for number, before in self._before.items():
            signal.signal(number, before)

    def set_deadline(self, seconds_left: float) -> None:
        """The job's deadline is that far away."""
        self._deadline = time.perf_counter() + max(seconds_left, 0.0)
        if self.active:
            _clock.hurry(self)

    def cancel(self) -> None:
        """Interrupt the item that is running; for other threads."""
        if self.active:
            self._cancelled = True
            _interrupt()

    def due(self) -> float:
        """When the main thread has to look, in seconds of time.perf_counter()."""
        started = self.started
        limit = (time.perf_counter() if started is None else started) + self.limit
        return limit if self.over else min(limit, self._deadline)

    def _handle(self, number: signal.Signals, handler: _Handler) -> None:
        # None: another language's; there is no way to put that back.
        self._before[number] = signal.signal(number, handler) or signal.SIG_DFL

    def _after(self, outer: _Handler) -> _Handler:
        passing = self._passing(outer)

        def both(number: int, frame: FrameType | None) -> None:
            passing(number, frame)
            self._fire(number, frame)

        return both

    def _passing(self, outer: _Handler) -> _Handler:
        def passing(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGALRM:
                self.leftovers.rang()
            before = noted()
            try:
                outer(number, frame)
            except BaseException as error:
                self._is_interrupted(error if noted() is before else noted())
                raise
            if noted() is not before:
                self._is_interrupted(noted())

        return passing

    def _is_interrupted(self, error: BaseException | None) -> None:
        self.outer_error, self.over = error, True

    def _fire(self, _signal: int, _frame: FrameType | None) -> None:
        now = time.perf_counter()
        self.over = self._cancelled or now >= self._deadline or self.outer_error is not None
        started, self.started = self.started, None
        reason = None if started is None else self._reason(now - started)
        if reason is None:
            self.started = started
            return
        interrupt(reason)

    def _reason(self, seconds: float) -> ItemInterrupted | None:
        if self._cancelled:
            return ItemInterrupted("cancelled", "the job was cancelled while it ran")
        if time.perf_counter() >= self._deadline:
            return ItemInterrupted("timeout", "the job's deadline passed while it ran")
        if seconds >= self.limit:
            return ItemInterrupted("timeout", f"ran longer than {self.limit:g} s")
        return None


class InnerTimeLimit(TimeLimit):
    """Of a job that a task works on while it waits for it: what interrupts the task passes through,
    its soft limit and its own alarm.
    """

    _passed = (signal.SIGUSR1, signal.SIGALRM)


def _interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)


class _Clock:
    """The thread that looks after all limits of a process; it is started by the first.

    It takes no lock that a signal's handler could find taken.
    """

    def __init__(self) -> None:
        self._limits: list[TimeLimit] = []
        self._process = 0
        self._changed = threading.Event()
        self._wakes_at = _NO_LIMIT

    def add(self, limit: TimeLimit) -> None:
        if self._process != os.getpid():
            # A fork has no threads.
            self._process, self._limits, self._changed = os.getpid(), [], threading.Event()
            threading.Thread(target=self._run, name="hive-clock", daemon=True).start()
        self._limits.append(limit)
        self.hurry(limit)

    def remove(self, limit: TimeLimit) -> None:
        self._limits.remove(limit)

    def hurry(self, limit: TimeLimit) -> None:
        """Look at a limit in time, although it is nearer than what the thread waits for."""
        if limit.due() < self._wakes_at:
            self._changed.set()

    def _run(self) -> None:
        hear_no_signals()
        while True:
            self._changed.clear()
            # Who comes after this wakes the thread, who came before is seen by it.
            self._wakes_at = _NO_LIMIT
            now = time.perf_counter()
            due = min((limit.due() for limit in self._limits.copy()), default=_NO_LIMIT)
            if due <= now:
                _interrupt()
            self._wakes_at = max(due, now + _AGAIN) if due <= now else due
            self._changed.wait(min(self._wakes_at - now, _LONGEST_WAIT))


_clock = _Clock()
