"""The dead letters: who waits for new ones is told, and those too many or too old go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace

from hive.broker.ledger.dead_letters import DeadLetters, Position
from hive.broker.ledger.telling import tell
from hive.foreman.watch.duty import Watch

SEEN = 1000
"""Untold letters of which a tick takes those that it tells of."""
TOLD = 100
"""Letters that one tick tells of."""
TELLING = 5.0
"""Seconds after which telling begins no other letter."""
PATIENCE = 1.0
"""Seconds for which a tick waits for that."""
LOOKED_AT = 500
"""Letters at which one look looks."""
LOOKS = 20
"""Looks of one tick while the order of the letters is not complete."""
PURGING = 0.5
"""Seconds after which a tick purges no other letter."""


class Teller:
    """Stores FAILURE for new dead letters, so that nobody waits for their results for ever.

    It does so in a thread: the application's result backend may be a server of its own, and the
    watchdog must not hang with it. A letter that cannot be told is tried again at a later tick.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._fault: BaseException | None = None
        self._failed: set[str] = set()

    def tell(self, watch: Watch) -> None:
        """Raises: redis errors; what the result backend raised, once it was tried with others, too;
        TimeoutError while it hangs.
        """
        if self._thread is None or not self._thread.is_alive():
            untold = watch.client.redis.srandmember(watch.client.key("untold"), SEEN)
            if not untold:
                self._fault = None
                return
            # Those that failed come last: each may take as long as its server hangs.
            self._failed.intersection_update(raw.decode() for raw in untold)
            ids = sorted((raw.decode() for raw in untold), key=self._failed.__contains__)
            self._thread = threading.Thread(
                target=self._run, args=(watch, ids[:TOLD]), name="hive-dead-letters", daemon=True
            )
            self._thread.start()
        self._thread.join(PATIENCE)
        if self._thread.is_alive() and self._fault is None:
            raise TimeoutError("The result backend does not answer; dead letters wait for it.")
        if self._fault is not None:
            raise self._fault

    def _run(self, watch: Watch, publish_ids: Iterable[str]) -> None:
        try:
            faults = tell(watch.app, watch.client, publish_ids, time.monotonic() + TELLING)
            self._failed.update(faults)
            self._fault = next(iter(faults.values()), None)
        except BaseException as fault:  # noqa: BLE001 - it is the duty that fails
            self._fault = fault


class Bound:
    """Keeps the dead letters within HIVE_DEAD_LETTERS_MAX and HIVE_DEAD_LETTERS_DAYS.

    The oldest go first, a part of them at a tick, and none whose failure is not told yet.
    """

    def __init__(self) -> None:
        self._at = Position()

    def keep(self, watch: Watch) -> int:
        """Returns: how many were purged. Raises: redis errors."""
        letters, began = DeadLetters(watch.app, watch.client), self._at.rank
        found: list[str] = []
        for _ in range(LOOKS):
            self._at, found = letters.look(self._at, LOOKED_AT)
            if self._at.complete:
                break
        purged = letters.purge_oldest(found, time.monotonic() + PURGING)
        # Those behind the purged ones have moved up; what was found and is still there comes again.
        rank = self._at.rank - purged if purged == len(found) else began
        self._at = replace(self._at, rank=max(0, rank))
        return purged
