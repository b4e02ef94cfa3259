"""How a supervisor, or a nexus, stands: told at each turn of its loop to who watches over it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hive.process.notify import Notifier
from hive.process.signal_events import LONGEST_WAIT
from hive.process.vitals import Kind, State, VitalsFile, in_words

EXTENSION = 6 * LONGEST_WAIT
"""Seconds that a service manager waits on after each turn of a process that starts or stops."""
START_WITHIN = 300.0
"""Seconds for which a start is waited for. What takes longer never ends: a worker of an application
in which Hive is not installed gives no sign at all.
"""


class Standing:
    """Keeps the vitals for `hive health`, and tells systemd the same.

    systemd takes the service for started with the first state in which there is something to serve
    with, also while the broker is away: a boot would hang on it.
    """

    def __init__(
        self,
        home: Path,
        kind: Kind,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """As for VitalsFile."""
        self._clock = clock
        self._start_until = clock() + START_WITHIN
        self._file = VitalsFile(home, kind, name)
        self._notifier = Notifier()
        self._ready = False
        self._stopping = False

    def turn(self, state: State, detail: str = "") -> None:
        """The loop has turned, and this is how the process is."""
        self._file.write(state, detail)
        self._notifier.status(in_words(state, detail))
        self._notifier.alive()
        if state in ("working", "waiting", "draining") and not self._ready:
            self._ready = self._notifier.ready()
        if state == "stopping" and not self._stopping:
            self._stopping = self._notifier.stopping()
        starts = state == "starting" and not self._ready and self._clock() < self._start_until
        if state == "stopping" or starts:
            self._notifier.extend(EXTENSION)

    def close(self) -> None:
        """It ends in good order."""
        self._file.close()
