"""A tiny process between `hive up` and its broker.

When `hive up` is gone, however it ended, the guardian shuts the broker down in good order.

Run by file name, `python -I -S guardian.py FD COMMAND…`, with nothing but the standard library, so
that it starts in milliseconds and weighs little. FD is the read end of a pipe; the broker lives as
long as somebody holds its write end.

The other direction, a guardian that is killed itself, is left to the kernel: the server asked for
SIGTERM at its parent's death. That request is tied to the thread that started the process, which
makes it a trap in a program with threads; a guardian has one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

PR_SET_PDEATHSIG = 1
# Seconds that the server has to write its data; its SHUTDOWN waits for nobody else.
STOP_WITHIN = 8.0
LONGEST_WAIT = 5.0


def main(lifeline: int, command: list[str]) -> int:
    """Run the command until it ends, a stop signal arrives or the pipe is at its end.

    Returns: the command's exit code, 128 and the signal's number where a signal ended it.
    """
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _nothing)
    # PLW1509 warns of threads at a fork; this process has one.
    server = subprocess.Popen(command, preexec_fn=_ask_for_end(os.getpid()))  # noqa: PLW1509
    while server.poll() is None:
        ready, _, _ = select.select([woken, lifeline], [], [], LONGEST_WAIT)
        received = os.read(woken, 4096) if woken in ready else b""
        if lifeline in ready or any(number != signal.SIGCHLD for number in received):
            break
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_WITHIN)
        server.kill()
    code: int = server.wait()
    return code if code >= 0 else 128 - code


def _ask_for_end(guardian: int) -> Callable[[], None]:
    """What the child does before it becomes the server."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def ask() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != guardian:
                # The guardian died before the request was made: no signal will ever come.
                os._exit(1)

    return ask


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The wake-up pipe tells the loop; a signal without a handler would not reach it."""


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
