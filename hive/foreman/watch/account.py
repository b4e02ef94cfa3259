"""The conservation audit: at each tick of the watchdog, whether the account of all messages
balances, and the broker lost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from hive.broker.ledger.account import Alarm, Audit, Conservation, WentBack
from hive.broker.link.client import BrokerClient
from hive.logs import get_logger

log = get_logger(__name__)

SURVEYED = 1000
"""Entries that one step of a survey looks at."""
SURVEY_STEPS = 10
"""Steps in one tick."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What this process knows that the broker knew."""

    mark: int
    at: float
    accepted: int


class Auditor:
    """Audits one broker, and raises the alarm: a log event, and what `hive status` and `/health`
    show.

    A fault counts once two audits in a row have found it. One that the marks tell (the broker went
    back) counts at once, and stands until people settle it; the others end when the account
    balances again.
    """

    def __init__(self, client: BrokerClient) -> None:
        self._conservation = Conservation(client)
        self._seen = _Seen(0, 0.0, 0)
        self._before = (0, 0)
        self._cursor: str | None = None
        self._surveyed = False

    def witness(self) -> None:
        """Only take note of the last mark: whoever audits next knows then what the broker knew.

        Raises redis errors.
        """
        mark, at = self._conservation.mark()
        if mark > self._seen.mark:
            self._seen = _Seen(mark, at, 0)

    def audit(self) -> None:
        """One audit. Raises redis errors."""
        audit = self._conservation.look(self._seen.mark)
        account = audit.account
        back = self._went_back(audit)
        self._seen = _Seen(*audit.left, account.accepted)
        found = account.missing, self._stranded(account.stranded)
        missing, stranded = (
            now if now and before else 0 for now, before in zip(found, self._before, strict=True)
        )
        self._before = found
        back = back or (audit.alarm.went_back if audit.alarm else None)
        since = audit.alarm.since if audit.alarm else audit.left[1]
        alarm = (
            Alarm(since=since, missing=missing, stranded=stranded, went_back=back)
            if missing or stranded or back
            else None
        )
        if alarm == audit.alarm:
            return
        self._conservation.raise_alarm(alarm)
        if alarm is None:
            log.info("conservation_restored")
        else:
            log.error("conservation_alarm", missing=missing, stranded=stranded, what=alarm.sentence)

    def _went_back(self, audit: Audit) -> WentBack | None:
        mark, at = audit.found
        if mark >= self._seen.mark:
            return None
        return WentBack(
            lost_since=at,
            seen=self._seen.at,
            fewer=max(0, self._seen.accepted - audit.account.accepted),
        )

    def _stranded(self, stranded: int) -> int:
        """The number, once every entry's list is known to the audit; a survey of all entries makes
        sure, a part of it a tick.
        """
        if stranded <= 0:
            self._cursor, self._surveyed = None, False
            return 0
        if self._surveyed:
            return stranded
        self._cursor = self._cursor or "0"
        for _ in range(SURVEY_STEPS):
            self._cursor = self._conservation.survey(self._cursor, SURVEYED)
            if self._cursor == "0":
                self._surveyed = True
                break
        return 0
