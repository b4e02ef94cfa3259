"""The lease: of several watchdogs one acts."""

from __future__ import annotations

from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient
from hive.broker.link.scripts import Script
from hive.logs import get_logger

log = get_logger(__name__)

LEASE = Script("hive.foreman.watch", "lease", include=(LIBRARY,))


class Lease:
    """One holder's side of a lease.

    seconds: how long it lasts unless it is taken again.
    patience: seconds for which nobody must have held it before this holder takes it; such a
        stand-in does not prolong it either.
    """

    def __init__(
        self, client: BrokerClient, name: str, holder: str, *, seconds: float, patience: float = 0.0
    ) -> None:
        self.holder = holder
        self.held = False
        self._client = client
        self._name = name
        self._ms = int(seconds * 1000)
        self._patience_ms = int(patience * 1000)

    def take(self) -> bool:
        """Take it, or keep it. Returns: whether it is held now. Raises: redis errors."""
        held = self._run(self._ms, self._patience_ms)
        if held != self.held:
            log.info("lease_taken" if held else "lease_lost", holder=self.holder)
        self.held = held
        return held

    def give_up(self) -> None:
        """Leave it to the next. Raises: redis errors."""
        self._run(0, 0)

    def _run(self, *terms: int) -> bool:
        arguments = (self._client.prefix, self._name, self.holder, *terms)
        return bool(self._client.run(LEASE, (), arguments))
