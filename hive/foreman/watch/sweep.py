"""The sweep: at each tick a little is cleared away of what nobody owns, never accepted work."""

from __future__ import annotations

from typing import Any

from hive.broker.ledger.account import Ledger
from hive.broker.ledger.sweep import OWN, Rows, sweep_requirements, sweep_some
from hive.broker.link.client import BrokerClient
from hive.logs import get_logger

log = get_logger(__name__)

SWEPT = 500
"""About how many keys, rows and entries one tick looks at."""
REST = 60
"""Ticks between two looks at the requirements."""
FORGET_AFTER = 86_400.0
"""Seconds for which nothing must have been sent with requirements before they are forgotten. Nodes
learn new ones at their next heartbeat.
"""


class Sweeper:
    """Sweeps one broker.

    rows: hashes of higher rooms with a row for each message.
    forget_after: seconds for which requirements must have been idle.
    """

    def __init__(
        self,
        client: BrokerClient,
        *,
        rows: tuple[Rows, ...] = (),
        forget_after: float = FORGET_AFTER,
    ) -> None:
        self._client = client
        self._ledger = Ledger(client)
        self._age = int(forget_after * 1000)
        self._keys: Any = "0"
        self._rows = (*OWN, *rows)
        self._row: Any = "0"
        self._which = 0
        self._rest = 0
        self._survey = ""
        self._survey_began = ""

    def sweep(self) -> int:
        """One step. Returns: how much was cleared away. Raises redis errors."""
        self._keys, self._row, swept = sweep_some(
            self._client, self._keys, self._rows[self._which], self._row, SWEPT
        )
        if self._row == b"0":
            self._which = (self._which + 1) % len(self._rows)
        swept += self._forget_requirements()
        if swept:
            log.info("swept", count=swept)
        return swept

    def _forget_requirements(self) -> int:
        """Go on with the survey of all entries, or begin one when requirements are due.

        Without a survey nothing is forgotten.
        """
        if self._survey:
            cursor = self._ledger.survey(self._survey, SWEPT)
            self._survey = "" if cursor == "0" else cursor
            if self._survey:
                return 0
        elif self._rest:
            self._rest -= 1
            return 0
        self._rest = REST
        now, due, forgotten = sweep_requirements(self._client, self._age, self._survey_began)
        self._survey_began = str(now) if due else ""
        self._survey = "0" if due else ""
        return forgotten
