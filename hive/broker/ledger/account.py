"""The account of all messages, read at one instant, and the alarm when it fails.

It balances when accepted = queued + placed + reserved + delayed + dead + done. Revoked, expired and
purged messages are done; what people wrote off (`settle`) counts as done, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient
from hive.broker.link.scripts import Script
from hive.broker.link.unreadable import ask, skip

ACCOUNT = Script("hive.broker.ledger", "account", include=(LIBRARY,))
SURVEY = Script("hive.broker.ledger", "survey", include=(LIBRARY,))
ALARM = Script("hive.broker.ledger", "alarm", include=(LIBRARY,))
SETTLE = Script("hive.broker.ledger", "settle", include=(LIBRARY,))


@dataclass(frozen=True, slots=True)
class Account:
    """How many messages are where.

    `entries` are those that are accepted and not done, wherever they are.
    """

    accepted: int
    done: int
    written_off: int
    entries: int
    queued: int
    placed: int
    reserved: int
    delayed: int
    dead: int

    @property
    def missing(self) -> int:
        """How many are accepted and not done, and have left no trace.

        Below zero: there are more than were ever accepted.
        """
        return self.accepted - self.done - self.written_off - self.entries

    @property
    def stranded(self) -> int:
        """How many are there, but in no place from which anybody would take them."""
        return self.entries - self.queued - self.placed - self.reserved - self.delayed - self.dead


_Time = Annotated[float, Field(ge=0, lt=1e11)]


class WentBack(BaseModel):
    """The broker lost writes that it had confirmed.

    lost_since, seen: unix seconds of the last mark that the broker kept, and of the last that
    somebody had seen.
    fewer: how many messages at least were accepted by then, and no longer are.
    """

    model_config = ConfigDict(frozen=True)

    lost_since: _Time
    seen: _Time
    fewer: int


class Alarm(BaseModel):
    """Why the account fails. `since` is in unix seconds by the broker's clock."""

    model_config = ConfigDict(frozen=True)

    since: _Time
    missing: int = 0
    stranded: int = 0
    went_back: WentBack | None = None

    @property
    def sentence(self) -> str:
        """All of it in one sentence, for people."""
        said = []
        if self.went_back is not None:
            back = self.went_back
            when = f"between {_clock(back.lost_since)} and" if back.lost_since else "before"
            more = f", at least {_messages(back.fewer)}" if back.fewer else ""
            said.append(
                f"the broker has lost what it confirmed {when} {_clock(back.seen)}: what was sent "
                f"then is gone{more}"
            )
        if self.missing > 0:
            said.append(f"{_messages(self.missing)} accepted and gone without a trace")
        if self.missing < 0:
            said.append(f"{_messages(-self.missing)} more than were accepted")
        if self.stranded:
            said.append(f"{_messages(self.stranded)} in no queue and at no node")
        return "; ".join(said)


@dataclass(frozen=True, slots=True)
class Look:
    """One look: the account, and the alarm that stands.

    found, left: number and time (unix seconds) of the mark that was found, and of the one left now.
    """

    account: Account
    alarm: Alarm | None
    found: tuple[int, float]
    left: tuple[int, float]


class Ledger:
    """Looks at one broker's account. Its calls block, and raise redis-py's errors."""

    def __init__(self, client: BrokerClient) -> None:
        self._client = client

    def look(self, seen: int | None = None) -> Look:
        """Count everything.

        seen: the highest mark that the caller has seen. A higher one is left then, for None none.
        """
        settings = self._client.settings
        queues = (settings.hive_high_priority_queue, settings.hive_background_queue)
        reply = self._run(ACCOUNT, "" if seen is None else seen, *queues)
        found, found_at, left, now = map(int, reply[:4])
        alarm = self._readable(reply[4]) if reply[4] else None
        return Look(
            Account(*map(int, reply[5:])), alarm, (found, found_at / 1000), (left, now / 1000)
        )

    def alarm(self) -> Alarm | None:
        """The alarm that stands: one round trip, nothing counted."""
        key = self._client.key("account")
        raw = ask(self._client, self._client.redis.hget, key, "alarm")
        return self._readable(raw) if raw else None

    def mark(self) -> tuple[int, float]:
        """The last mark that was left, and when (unix seconds)."""
        key = self._client.key("account")
        read = self._client.redis.hmget
        found = ask(self._client, read, key, "mark", "at") or (None, None)
        try:
            mark, at = (int(value or 0) for value in found)
        except ValueError as error:
            skip(self._client, key, "mark", error)
            return 0, 0.0
        return mark, at / 1000

    def raise_alarm(self, alarm: Alarm | None) -> None:
        """Store the alarm for everybody to see; None ends it."""
        self._run(ALARM, "" if alarm is None else alarm.model_dump_json())

    def survey(self, cursor: str, entries: int) -> str:
        """Find lists that are new to the account, by a look at so many entries from `cursor` on.

        Returns: where to go on, "0" at the end.
        """
        return str(self._run(SURVEY, cursor, entries).decode())

    def settle(self) -> tuple[int, int]:
        """Send home what is in no place, write off what is gone, end the alarm.

        Returns: how many of each.
        """
        home, gone = self._run(SETTLE)
        return int(home), int(gone)

    def _readable(self, raw: bytes) -> Alarm | None:
        """The stored alarm; None, with a line in the log, for one that this release cannot read."""
        try:
            return Alarm.model_validate_json(raw)
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            skip(self._client, self._client.key("account"), "alarm", why)
            return None

    def _run(self, script: Script, *args: Any) -> Any:
        return self._client.run(script, (), (self._client.prefix, *args))


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
