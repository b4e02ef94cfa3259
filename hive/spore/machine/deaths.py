"""Of what a process of the pool died, in words for its task's dead letter."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from billiard.exceptions import TimeLimitExceeded
from celery.exceptions import Reject

from hive.spore.machine.limits import ROOT, oom_kills

_STATUS = re.compile(r"\b(signal|exitcode) (-?\d+)")
"""How billiard says in a WorkerLostError what ended a process; nothing else of it tells."""


class Deaths:
    """Tells of what pool processes of this worker die, from its start on."""

    def __init__(self, root: Path = ROOT) -> None:
        """root: where /proc and the control groups are found; a copied tree serves as well."""
        self._root = root
        self._killed = oom_kills(root)

    def reason(self, error: BaseException) -> str:
        """Why a message goes back to its queue.

        error: what Celery made of it: WorkerLostError, SystemExit, Reject, TimeLimitExceeded.
        """
        if isinstance(error, TimeLimitExceeded):
            return f"it ran longer than its hard time limit ({error.args[0]} s), and was killed"
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            return f"its process ended with exit code {error.code}"
        if isinstance(error, Reject):
            why = getattr(error, "reason", None)
            return "it was rejected by the task" + (f": {why}" if why else "")
        found = _STATUS.search(str(error))
        if found is None:
            return "its process died"
        number = int(found[2])
        if found[1] == "signal":
            return self._of_signal(number)
        return f"its process ended with exit code {number}"

    def _of_signal(self, number: int) -> str:
        reason = f"its process died of {_name(number)}"
        if number != signal.SIGKILL:
            return reason
        before, self._killed = self._killed, oom_kills(self._root)
        if before is None or self._killed is None or self._killed <= before:
            return reason
        return f"{reason}: out of memory, as the kernel says"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
