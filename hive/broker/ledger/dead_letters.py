"""Dead letters: messages whose process or node died under them too often.

They stay until a person sends them again or purges them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import redis
from celery import Celery, states
from pydantic import BaseModel, ConfigDict

from hive.broker.channel.entries import Entry
from hive.broker.channel.publishing import following_up
from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient, client_of
from hive.broker.link.priorities import HIGHEST
from hive.broker.link.scripts import Script
from hive.errors import DeadLetterError
from hive.logs import get_logger

log = get_logger(__name__)

REVIVE = Script("hive.broker.ledger", "revive", include=(LIBRARY,))
PURGE_DEAD = Script("hive.broker.ledger", "purge_dead", include=(LIBRARY,))
FORGET_RESULT = Script("hive.broker.ledger", "forget_result")
BATCH = 500


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


class DeadLetters:
    """The dead letters of one application's broker.

    Its calls block, and raise redis-py's errors.
    """

    def __init__(self, app: Celery, client: BrokerClient | None = None) -> None:
        """client: a connection of the caller's own, if not the application's."""
        self._app = app
        self._client = client or client_of(app)

    def publish_ids(self) -> list[str]:
        """The publish ids of all, the newest first."""
        # HSCAN, and not one HGETALL: a long answer would hold everybody else up.
        found = dict(self._client.redis.hscan_iter(self._client.key("dead"), count=BATCH))
        return [
            raw.decode()
            for raw in sorted(found, key=lambda raw: _split(found[raw])[0], reverse=True)
        ]

    def count(self) -> int:
        """How many there are."""
        return int(self._client.redis.hlen(self._client.key("dead")))

    def page(self, limit: int, offset: int = 0) -> list[DeadLetter]:
        """At most `limit` of them, after the `offset` newest, the newest first."""
        wanted = self.publish_ids()[offset : offset + limit]
        return [
            letter
            for at in range(0, len(wanted), BATCH)
            for letter in self._read(wanted[at : at + BATCH])
        ]

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
        if letter is None:
            return False
        stored = stored_result(self._app, letter.task_id) if letter.task_id else None
        if not self._client.run(REVIVE, (), (self._client.prefix, letter.publish_id)):
            return False
        if stored is not None:
            forget_failure(self._app, letter.task_id, stored)
        log.info("dead_letter_retried", task_id=letter.task_id, task=letter.task)
        return True

    def purge(self, names: Sequence[str]) -> int:
        """Forget dead letters, by task id or publish id; unknown ones are left out.

        First, who waits for their results is told that they failed.

        Returns: how many were forgotten.
        """
        publish_ids = [publish_id for name in names if (publish_id := self._publish_id(name))]
        self.tell(
            [
                publish_id
                for publish_id in publish_ids
                if self._client.redis.sismember(self._client.key("untold"), publish_id)
            ]
        )
        batches = (publish_ids[at : at + BATCH] for at in range(0, len(publish_ids), BATCH))
        purged = sum(
            int(self._client.run(PURGE_DEAD, (), (self._client.prefix, *batch)))
            for batch in batches
        )
        log.info("dead_letters_purged", count=purged)
        return purged

    def tell(self, publish_ids: Sequence[str]) -> None:
        """Store FAILURE for dead letters, so that nobody waits for their results for ever."""
        redis_client = self._client.redis
        for publish_id in publish_ids:
            packed = redis_client.hget(self._client.key("entries"), publish_id)
            dead = redis_client.hget(self._client.key("dead"), publish_id)
            if packed is not None and dead is not None:
                with following_up():  # its error callbacks are sent in it
                    self._store_failure(publish_id, packed, _split(dead)[1])
            redis_client.srem(self._client.key("untold"), publish_id)

    def _store_failure(self, publish_id: str, packed: bytes, reason: str) -> None:
        try:
            entry = Entry.unpack(publish_id, packed)
            log.error(
                "dead_letter",
                task_id=entry.task_id,
                task=entry.task_name,
                deaths=entry.deaths,
                reason=reason,
            )
            if not entry.task_id or entry.headers.get("ignore_result"):
                return
            error = DeadLetterError(
                f"{entry.task_name}[{entry.task_id}] died {entry.deaths} times ({reason}); it is a "
                "dead letter now."
            )
            self._app.backend.mark_as_failure(entry.task_id, error, request=entry.context())
        except redis.exceptions.RedisError:
            raise
        except Exception:
            # A message that cannot be read must not stand in the way of all others.
            log.exception("dead_letter_not_told", publish_id=publish_id)

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
        # No transaction: a server without memory refuses even to read in one.
        with self._client.redis.pipeline(transaction=False) as pipe:
            pipe.hmget(self._client.key("entries"), list(publish_ids)).hmget(
                self._client.key("dead"), list(publish_ids)
            )
            entries, dead = pipe.execute()
        for publish_id, packed, buried in zip(publish_ids, entries, dead, strict=True):
            if packed is not None and buried is not None:
                yield _letter(publish_id, packed, *_split(buried))


def stored_result(app: Celery, task_id: str) -> Any:
    """What the result backend holds for a task, as it holds it; None when nothing is stored."""
    backend: Any = app.backend
    return backend.get(backend.get_key_for_task(task_id))


def forget_failure(app: Celery, task_id: str, stored: Any) -> None:
    """Forget a stored failure that was read before: who waits for the new run would get it.

    A success is kept, and one that was stored meanwhile: the new run is on its way already.
    """
    backend: Any = app.backend
    if backend.decode_result(stored)["status"] != states.SUCCESS:
        FORGET_RESULT(backend.client, (backend.get_key_for_task(task_id),), (stored,))


def _split(value: bytes) -> tuple[int, str]:
    """When it died (ms), and of what."""
    ms, _, reason = value.decode(errors="replace").partition("|")
    return int(ms), reason


def _letter(publish_id: str, packed: bytes, ms: int, reason: str) -> DeadLetter:
    task, args, kwargs = "", None, None
    try:
        entry = Entry.unpack(publish_id, packed)
        task = entry.task_name
        args, kwargs, _ = entry.body()
    except (ValueError, KeyError, TypeError, AttributeError):
        # Another producer may have sent anything, and it may be here for that very reason.
        entry = Entry.head(publish_id, packed)
        log.warning("dead_letter_not_readable", publish_id=publish_id)
    return DeadLetter(
        task_id=entry.task_id,
        publish_id=publish_id,
        task=task,
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
