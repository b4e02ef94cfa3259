"""A bound on the CPU that a piece of work may use, in a process of its own.

The work is other people's: regular expressions that backtrack, loops over loops. A signal ends a
regular expression in its midst, too. What not even a signal ends, the parent does (`process.py`).
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

FILE_CPU = 10
"""Seconds of CPU that a file may cost."""
_AGAIN = 0.1


class Overtime(BaseException):
    """The work has used up its CPU. No Exception, since the tools swallow those."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Stop what is inside after so many seconds of CPU, of this process and not of the clock. For
    the main thread; limits do not nest.

    Raises: Overtime, inside.
    """
    until = time.process_time() + seconds

    def stop(_signum: int, _frame: FrameType | None) -> None:
        # The timer counts the clock's ticks, which on a busy machine is more than what was used.
        if time.process_time() >= until:
            raise Overtime

    signal.signal(signal.SIGPROF, stop)
    # Again and again: it may come too early, or meet a destructor, where it would be swallowed.
    signal.setitimer(signal.ITIMER_PROF, max(_AGAIN, seconds), _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def end_alone(seconds: float) -> None:
    """Let the kernel end this process some time after so many more seconds of CPU, should there be
    no parent any more that does. It counts ticks as well, so this is generous.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(2 * time.process_time() + 5 * seconds)
    resource.setrlimit(
        resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )
