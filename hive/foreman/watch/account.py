"""The account of all messages: at each tick of the watchdog, whether it balances."""

from __future__ import annotations

from dataclasses import dataclass

from hive.broker.ledger.account import Alarm, Ledger, Look, WentBack
from hive.broker.link.client import BrokerClient
from hive.logs import get_logger

log = get_logger(__name__)

SURVEYED = 1000
"""Entries that one step of a survey looks at."""
SURVEY_STEPS = 10
"""Steps in one tick."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the broker knew, as far as this process has seen."""

    mark: int
    at: float
    accepted: int


class AccountWatch:
    """Watches one broker's account, and raises the alarm.

    The alarm is a log event, and what `hive status` and `/health` show. A fault counts once two
    looks in a row have found it, and its alarm ends when the account balances again. That the
    broker went back, of which the marks tell, counts at once, and stands until people settle it.
    """

    def __init__(self, client: BrokerClient) -> None:
        self._ledger = Ledger(client)
        self._seen = _Seen(0, 0.0, 0)
        self._before = (0, 0)
        self._cursor: str | None = None
        self._surveyed = False

    def witness(self) -> None:
        """Only take note of the last mark, by which the next look knows what the broker knew.

        Raises redis errors.
        """
        mark, at = self._ledger.mark()
        if mark > self._seen.mark:
            self._seen = _Seen(mark, at, 0)

    def look(self) -> None:
        """Look once. Raises redis errors."""
        seen = self._ledger.look(self._seen.mark)
        account = seen.account
        back = self._went_back(seen)
        self._seen = _Seen(*seen.left, account.accepted)
        found = account.missing, self._stranded(account.stranded)
        missing, stranded = (
            now if now and before else 0 for now, before in zip(found, self._before, strict=True)
        )
        self._before = found
        back = back or (seen.alarm.went_back if seen.alarm else None)
        since = seen.alarm.since if seen.alarm else seen.left[1]
        alarm = (
            Alarm(since=since, missing=missing, stranded=stranded, went_back=back)
            if missing or stranded or back
            else None
        )
        if alarm == seen.alarm:
            return
        self._ledger.raise_alarm(alarm)
        if alarm is None:
            log.info("conservation_restored")
        else:
            log.error("conservation_alarm", missing=missing, stranded=stranded, what=alarm.sentence)

    def _went_back(self, look: Look) -> WentBack | None:
        mark, at = look.found
        if mark >= self._seen.mark:
            return None
        return WentBack(
            lost_since=at,
            seen=self._seen.at,
            fewer=max(0, self._seen.accepted - look.account.accepted),
        )

    def _stranded(self, stranded: int) -> int:
        """How many are stranded; 0 until every entry's list is known to the account.

        A survey of all entries makes sure, a part of it a tick.
        """
        if stranded <= 0:
            self._cursor, self._surveyed = None, False
            return 0
        if self._surveyed:
            return stranded
        self._cursor = self._cursor or "0"
        for _ in range(SURVEY_STEPS):
            self._cursor = self._ledger.survey(self._cursor, SURVEYED)
            if self._cursor == "0":
                self._surveyed = True
                break
        return 0
