"""Dead letters: messages whose process or node died under them too often.

They stay until a person sends them again or purges them, or until they are too many or too old.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from pydantic import BaseModel, ConfigDict

from hive.broker.channel.entries import Entry
from hive.broker.channel.steps import LIBRARY
from hive.broker.ledger.stored import forget_failure, stored_result
from hive.broker.ledger.telling import split_row, tell
from hive.broker.link.client import BrokerClient, client_of
from hive.broker.link.priorities import HIGHEST
from hive.broker.link.scripts import Script
from hive.errors import HiveError
from hive.logs import get_logger

log = get_logger(__name__)

REVIVE = Script("hive.broker.ledger", "revive", include=(LIBRARY,))
PURGE_DEAD = Script("hive.broker.ledger", "purge_dead", include=(LIBRARY,))
PAGE = Script("hive.broker.ledger", "dead_page", include=(LIBRARY,))
ORDER = Script("hive.broker.ledger", "dead_order", include=(LIBRARY,))
BATCH = 500
READ_BATCH = 50
"""Letters whose messages are read at once."""


class LoggedDeath(BaseModel):
    """One of the deliveries that died."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    node: str
    reason: str


class DeadLetter(BaseModel):
    """One dead letter. Times are in UTC."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    """Empty where a producer other than Hive gave none; `publish_id` serves instead."""
    publish_id: str
    task: str
    """The task's name; empty when the message cannot be read."""
    reason: str
    deaths: int
    """How many of its deliveries died since it was sent, or sent again."""
    died_at: datetime
    age: float
    """Seconds since then, by this machine's clock."""
    created_at: datetime
    home: str
    """The queue to which it goes when it is sent again."""
    priority: int
    args: list[Any] | None = None
    """None, as kwargs, when the message cannot be read."""
    kwargs: dict[str, Any] | None = None
    history: list[LoggedDeath] = []
    """Its last ten deaths, the oldest first; also those before it was sent again."""

    @property
    def id(self) -> str:
        """By what people name it."""
        return self.task_id or self.publish_id


@dataclass(frozen=True, slots=True)
class Position:
    """How far a look at all dead letters has come: two cursors, and a rank in the order by time."""

    letter: Any = "0"
    ordered: Any = "0"
    rank: int = 0
    complete: bool = True
    """Whether all letters are in the order."""


class DeadLetters:
    """The dead letters of one application's broker.

    Its calls block, and raise redis-py's errors.
    """

    def __init__(self, app: Celery, client: BrokerClient | None = None) -> None:
        """client: a connection of the caller's own, if not the application's."""
        self._app = app
        self._client = client or client_of(app)

    def publish_ids(self) -> list[str]:
        """The publish ids of all, the newest first: all of them are read."""
        # HSCAN, and not one HGETALL: a long answer would hold everybody else up.
        found = dict(self._client.redis.hscan_iter(self._client.key("dead"), count=BATCH))
        return [
            raw.decode()
            for raw in sorted(found, key=lambda raw: split_row(found[raw])[0], reverse=True)
        ]

    def count(self) -> int:
        """How many there are."""
        return int(self._client.redis.hlen(self._client.key("dead")))

    def page(self, limit: int, offset: int = 0) -> list[DeadLetter]:
        """At most `limit` of them, after the `offset` newest, the newest first."""
        letters: list[DeadLetter] = []
        for at in range(offset, offset + limit, BATCH):
            size = min(BATCH, offset + limit - at)
            reply = self._client.run(PAGE, (), (self._client.prefix, at, size))
            if reply is None:  # their order by time is not complete
                return [*self._read(self.publish_ids()[offset : offset + limit])]
            letters += self._read([raw.decode() for raw in reply])
            if len(reply) < size:
                break
        return letters

    def find(self, name: str) -> DeadLetter | None:
        """The dead letter of that task id, or publish id; None when there is none."""
        publish_id = self._publish_id(name)
        return next(self._read([publish_id]), None) if publish_id else None

    def retry(self, name: str) -> bool:
        """Send one again: it goes back to its home queue.

        Its deaths are forgotten, but for its history, and so is its stored failure.

        Returns: False when no dead letter has that task id or publish id.
        """
        letter = self.find(name)
        return letter is not None and self._revive(letter)

    def retry_all(self) -> int:
        """Send all again that are there now. Returns: how many."""
        return sum(map(self._revive, self._read(self.publish_ids())))

    def _revive(self, letter: DeadLetter) -> bool:
        stored = stored_result(self._app, letter.task_id) if letter.task_id else None
        if not self._client.run(REVIVE, (), (self._client.prefix, letter.publish_id)):
            return False
        if stored is not None:
            forget_failure(self._app, letter.task_id, stored)
        log.info("dead_letter_retried", task_id=letter.task_id, task=letter.task)
        return True

    def purge(self, names: Iterable[str]) -> int:
        """Forget dead letters, by task id or publish id; unknown ones are left out.

        First, who waits for their results is told that they failed; who cannot be told is left.

        Returns: how many were forgotten. Raises: HiveError when some are left, once all others are
            forgotten.
        """
        return self._purge([found for name in names if (found := self._publish_id(name))])

    def purge_all(self) -> int:
        """The same with all that are there now."""
        return self._purge(self.publish_ids())

    def _purge(self, publish_ids: Sequence[str]) -> int:
        purged, faults = 0, dict[str, Exception]()
        for at in range(0, len(publish_ids), BATCH):
            batch = publish_ids[at : at + BATCH]
            untold = self._client.redis.smismember(self._client.key("untold"), batch)
            waiting = [name for name, waits in zip(batch, untold, strict=True) if waits]
            faults |= tell(self._app, self._client, waiting)
            going = [name for name in batch if name not in faults]
            if going:
                purged += self._client.run(PURGE_DEAD, (), (self._client.prefix, *going))
        log.info("dead_letters_purged", count=purged)
        for fault in faults.values():
            raise HiveError(
                f"The result backend cannot be told that they failed ({fault}), so they are left: "
                f"{len(faults)} of {len(publish_ids)} dead letters."
            ) from fault
        return purged

    def look(self, at: Position, amount: int) -> tuple[Position, list[str]]:
        """Go on keeping the order by time, and find the oldest beyond what the settings allow.

        amount: about how many letters to look at.

        Returns: where to go on, and the publish ids found, the oldest first.
        """
        settings = self._client.settings
        age = int(settings.hive_dead_letters_days * 86_400_000)
        bounds = (settings.hive_dead_letters_max, age, at.rank, amount)
        arguments = (self._client.prefix, at.letter, at.ordered, amount, *bounds)
        letter, ordered, incomplete, rank, *found = self._client.run(ORDER, (), arguments)
        position = Position(letter, ordered, int(rank), complete=not incomplete)
        return position, [raw.decode() for raw in found]

    def purge_oldest(self, publish_ids: Sequence[str], until: float) -> int:
        """Forget letters that are too many or too old, each with a line in the log.

        until: when to stop (monotonic seconds). Returns: how many were forgotten.
        """
        purged = 0
        for letter in self._read(publish_ids):
            if self._client.run(PURGE_DEAD, (), (self._client.prefix, letter.publish_id)):
                log.warning(
                    "dead_letter_purged", task_id=letter.id, task=letter.task, age=letter.age
                )
                purged += 1
            if time.monotonic() > until:
                break
        return purged

    def _publish_id(self, name: str) -> str | None:
        dead = self._client.key("dead")
        if self._client.redis.hexists(dead, name):
            return name
        newest = self._client.redis.hget(self._client.key("ids"), name)
        return (
            newest.decode()
            if newest is not None and self._client.redis.hexists(dead, newest)
            else None
        )

    def _read(self, publish_ids: Sequence[str]) -> Iterator[DeadLetter]:
        """Those that are still there."""
        for at in range(0, len(publish_ids), READ_BATCH):
            batch = list(publish_ids[at : at + READ_BATCH])
            # No transaction: a server without memory refuses even to read in one.
            with self._client.redis.pipeline(transaction=False) as pipe:
                pipe.hmget(self._client.key("entries"), batch)
                pipe.hmget(self._client.key("dead"), batch)
                entries, dead = pipe.execute()
            for publish_id, packed, buried in zip(batch, entries, dead, strict=True):
                if packed is not None and buried is not None:
                    yield _letter(publish_id, packed, *split_row(buried))


def _letter(publish_id: str, packed: bytes, ms: int, reason: str) -> DeadLetter:
    args, kwargs = None, None
    try:
        entry = Entry.unpack(publish_id, packed)
    except ValueError:
        entry = Entry.head(publish_id, packed)
    try:
        args, kwargs, _ = entry.body()
    except ValueError:
        # Another producer may have sent anything, and it may be here for that very reason.
        log.warning("dead_letter_not_readable", publish_id=publish_id)
    return DeadLetter(
        task_id=entry.task_id,
        publish_id=publish_id,
        task=entry.task_name,
        reason=reason,
        deaths=entry.deaths,
        died_at=datetime.fromtimestamp(ms / 1000, UTC),
        age=round(max(0.0, time.time() - ms / 1000), 3),
        created_at=datetime.fromtimestamp(entry.created, UTC),
        home=entry.home,
        priority=HIGHEST - entry.index,
        args=args,
        kwargs=kwargs,
        history=[
            LoggedDeath(
                at=datetime.fromtimestamp(death.at, UTC), node=death.node, reason=death.reason
            )
            for death in entry.history
        ],
    )
