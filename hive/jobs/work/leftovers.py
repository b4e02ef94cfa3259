"""What items leave behind in their process's signal handling, and what is put back behind them.

One item's alarm must not strike another, or the code between them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from typing import Any

FEW = 64
"""Behind each item of a lease of at most so many it is looked at: that costs some microseconds."""
LONG = 0.001
"""Seconds after which it is looked at behind any item."""

_SAME = 0.01
"""Seconds by which two looks at the same alarm may differ."""


def hear_no_signals() -> None:
    """For a thread beside the items: an alarm that an item has blocked would come to it, and may
    end the process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


class Leftovers:
    """Handlers, the one timer behind SIGALRM, and the mask of blocked signals, of the main thread.

    `note` keeps how they are, `put_back` makes them so again; before `note` it does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, Any] = {}
        self._mask: set[Any] = set()
        self._rings_at: float | None = None
        self._rings_again = False

    def note(self, numbers: Iterable[signal.Signals], *, own_alarm: bool) -> None:
        """Keep how it is now.

        numbers: the signals whose handlers are kept. own_alarm: an alarm that is set belongs to the
            task that runs around the items. Otherwise that task is over, and its alarm is turned
            off, except for one that rings again and again: the application's profiler has it.
        """
        self._handlers = {number: signal.getsignal(number) for number in numbers}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        self._rings_again = bool(interval)
        if left and not own_alarm and not interval:
            left = 0.0
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._rings_at = time.monotonic() + left if left else None

    def rang(self) -> None:
        """The alarm that was noted has rung."""
        if not self._rings_again:
            self._rings_at = None

    def put_back(self) -> None:
        """Undo what an item has changed."""
        if not self._handlers:
            return
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        strange = self._is_strange(left)
        if strange and left:
            signal.setitimer(signal.ITIMER_REAL, 0)
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask
        if masked and signal.SIGALRM in signal.sigpending():
            # An alarm that rang unheard is dropped before it can be heard.
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        for number, handler in self._handlers.items():
            # None is a handler that was not set from Python: nothing can put that back.
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if strange and self._rings_at is not None:
            left = self._rings_at - time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, max(left, LONG))

    def _is_strange(self, left: float) -> bool:
        """Whether the timer, with so many seconds left, is not the one that was noted."""
        if self._rings_at is None:
            return bool(left)
        if self._rings_again:
            return False
        return not left or abs(time.monotonic() + left - self._rings_at) > _SAME
