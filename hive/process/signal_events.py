"""Signals as events of a loop.

A supervisor sleeps until a signal, a closed pipe or a deadline, whichever is first.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

# No wait is endless: should an event ever be missed, the loop looks around all the same.
LONGEST_WAIT = 5.0

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Collects SIGTERM, SIGINT, SIGHUP and SIGCHLD instead of letting them interrupt the code; used
    as a context by the main thread.

    Nothing is done inside a handler, which may run between any two instructions; a loop that reads
    events cannot be surprised.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._old_wakeup = -1

    def __enter__(self) -> Signals:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._old_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            # A program started by nohup goes on when its terminal is closed.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, _nothing)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        self._reader.close()
        self._writer.close()

    def wait(self, seconds: float | None, fds: Sequence[int] = ()) -> tuple[int, list[int]]:
        """Sleep until something happens, for at most `seconds`, and never longer than LONGEST_WAIT.

        fds: descriptors that end the wait too when they become readable.

        Returns: how many stop signals arrived, and the readable ones of `fds`.
        """
        timeout = LONGEST_WAIT if seconds is None else min(max(0.0, seconds), LONGEST_WAIT)
        ready, _, _ = select.select([self._reader.fileno(), *fds], [], [], timeout)
        stops = 0
        if self._reader.fileno() in ready:
            stops = sum(number in STOP_SIGNALS for number in self._received())
        return stops, [fd for fd in ready if fd in fds]

    def _received(self) -> bytes:
        try:
            return self._reader.recv(4096)
        except BlockingIOError:
            return b""


def at_end(fd: int) -> bool:
    """Whether a readable pipe is at its end, which is all a lifeline can ever be."""
    try:
        return not os.read(fd, 64)
    except OSError:
        return True


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: without a handler a signal would end the process, or never wake the loop."""
