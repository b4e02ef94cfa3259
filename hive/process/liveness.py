"""Signs of life: a worker tells its supervisor that it takes work, or that it could not.

So a worker that hangs is started anew. The signs go through a pipe beside the lifeline, from the
worker to its supervisor. A worker that is frozen, deadlocked, or connected without ever asking for
work (celery issues 8030 and 8384) falls silent; one whose broker is away does not, since a new
start would not help it.
"""

from __future__ import annotations

import os
import time

from hive.process.lifeline import inherited_fd

FD_VARIABLE = "HIVE_SIGNS_FD"
WORKS, WAITS, REFUSED, DRAINS = b"w", b"b", b"r", b"d"
"""What a sign says: it takes work, or is full; its broker is away; its broker is there and does not
let it in; it was told to drain.
"""
PATIENCE = 15.0
"""Seconds without a sign after which a supervisor ends its worker."""
LONGEST_STEP = 6.0  # somewhat more than a supervisor ever waits in one go


class Signs:
    """The supervisor's side, one for each child: start the child with `environment` and `pass_fds`,
    then call `handed_over`.
    """

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.last = b""
        """The last sign; empty before the first."""
        self._looked_at = time.monotonic()
        self._silence: float | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {FD_VARIABLE: str(self._writer)}

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return (self._writer,)

    def handed_over(self) -> None:
        """Close the write end here; the child has its own."""
        os.close(self._writer)

    def look(self) -> bool:
        """Take note of what came.

        Returns: whether the child, which has given signs before, has been silent for too long.
        """
        now = time.monotonic()
        # A supervisor that was frozen together with its child, or whose machine slept, has not been
        # waiting for it all that time.
        step, self._looked_at = min(now - self._looked_at, LONGEST_STEP), now
        if self._heard():
            self._silence = 0.0
        elif self._silence is not None:
            self._silence += step
        return self._silence is not None and self._silence > PATIENCE

    def _heard(self) -> bool:
        try:
            heard = os.read(self.reader, 4096)
        except BlockingIOError:
            return False
        self.last = heard[-1:] or self.last
        return bool(heard)

    def close(self) -> None:
        os.close(self.reader)


def signs_fd() -> int | None:
    """The write end that this process's supervisor passed on; None for a process without one."""
    return inherited_fd(FD_VARIABLE)
