"""Finding zombies: reserved tasks that a living incarnation does not know, or has run too long."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import redis

from hive.broker.channel import steps
from hive.broker.channel.entries import Entry, reservation
from hive.broker.ledger.zombies import ZombieRow, note_zombies
from hive.broker.link.client import BrokerClient
from hive.broker.link.outage import passes
from hive.foreman.watch.duty import Watch
from hive.foreman.watch.look import Look, Suspect
from hive.logs import get_logger

log = get_logger(__name__)

GRACE_SECONDS = 30.0
AT_ONCE = 100
"""How many zombies one tick gives back, and how many long runs' entries it reads; the others have
their turn at the next.
"""


@dataclass(frozen=True, slots=True)
class Zombie:
    """A reservation to be given back, and why."""

    publish_id: str
    task_id: str
    node_id: str
    incarnation: str
    reserved_at: int
    reason: str


class ZombieFinder:
    """Judges the suspects that the watchdog's looks have found.

    A reservation counts as unknown once it was missing from two successive beats, unless the worker
    has not read an answer of the broker yet. A run counts as too long after the larger of
    HIVE_ZOMBIE_TASK_TIMEOUT and the task's own hard limit plus 30 s; one whose limit was lifted
    explicitly never does.
    """

    def __init__(self, client: BrokerClient) -> None:
        self._client = client
        # Of each suspect: the first beat that did not tell of it, and the hard limit that its
        # message has. Both are forgotten once it is none any more.
        self._missing: dict[Suspect, int] = {}
        self._limits: dict[Suspect, float | None] = {}

    def find(self, seen: Look) -> list[Zombie]:
        """The zombies among the suspects; also written to `venom:zombies` for people to see.

        Raises: redis errors.
        """
        settings = self._client.settings
        self._missing = {
            run: self._missing.get(run, run.beat) for run in seen.suspects if run.unknown
        }
        reasons = {
            run: "its node does not know it"
            for run, first in self._missing.items()
            if run.beat > first
        }
        long = seen.now - settings.hive_zombie_task_timeout * 1000
        runs = [run for run in seen.suspects if run.reserved_at <= long and run not in reasons]
        self._read_limits(runs)
        for run in runs:
            limit = self._may_run(run)
            if seen.now - run.reserved_at > limit * 1000:
                reasons[run] = f"it ran longer than {limit:g} s"
        found = self._zombies(dict(list(reasons.items())[:AT_ONCE]))
        self._record(found)
        return found

    def _may_run(self, run: Suspect) -> float:
        """For how many seconds; without an end where that is not known yet."""
        settings = self._client.settings
        hard = self._limits.get(run, 0.0)
        hard = run.limit if hard is None else hard
        if hard is not None and hard <= 0:
            return math.inf
        return max(
            settings.hive_zombie_task_timeout, (hard or settings.hive_task_timeout) + GRACE_SECONDS
        )

    def _read_limits(self, runs: list[Suspect]) -> None:
        """Read the hard limits in the messages of those that run long, of each once."""
        self._limits = {run: self._limits[run] for run in runs if run in self._limits}
        unread = [run for run in runs if run not in self._limits][:AT_ONCE]
        for run, packed in self._packed(unread):
            self._limits[run] = _hard_limit(run.publish_id, packed)

    def _zombies(self, reasons: dict[Suspect, str]) -> list[Zombie]:
        return [
            Zombie(
                run.publish_id,
                _task_id(run.publish_id, packed),
                run.node_id,
                run.incarnation,
                run.reserved_at,
                reasons[run],
            )
            for run, packed in self._packed(list(reasons))
        ]

    def _packed(self, runs: list[Suspect]) -> Iterable[tuple[Suspect, bytes | None]]:
        """Their entries as they are stored: one round trip."""
        ids = [run.publish_id for run in runs]
        stored = self._client.redis.hmget(self._client.key("entries"), ids) if ids else []
        return zip(runs, stored, strict=True)

    def _record(self, found: list[Zombie]) -> None:
        if not found:
            return
        now = time.time()
        rows = [
            (
                zombie.task_id,
                ZombieRow(
                    node=zombie.node_id,
                    reason=zombie.reason,
                    at=now,
                    started=zombie.reserved_at / 1000,
                ),
            )
            for zombie in found
        ]
        # This is only for people: neither a server without memory nor a key of another type in its
        # place must keep the watchdog from its work.
        try:
            note_zombies(self._client, rows)
        except redis.exceptions.ResponseError as error:
            if passes(error):
                raise
            log.warning("zombies_not_noted", error=str(error))


def _hard_limit(publish_id: str, packed: bytes | None) -> float | None:
    """The hard time limit in a message, in seconds; 0 for none, None where it tells of none.

    What is gone, or cannot be read, is left alone: such a message never starts, and must not stop
    the watchdog.
    """
    if packed is None:
        return 0.0
    try:
        hard, _ = Entry.unpack(publish_id, packed).headers.get("timelimit") or (None, None)
        return None if hard is None else float(hard)
    except (AttributeError, TypeError, ValueError):
        return 0.0


def _task_id(publish_id: str, packed: bytes | None) -> str:
    try:
        return Entry.head(publish_id, packed).task_id if packed is not None else ""
    except ValueError:
        return ""


class ZombieHunt:
    """The duty: what is found is given back, counted as a death."""

    def __init__(self, client: BrokerClient) -> None:
        self._finder = ZombieFinder(client)

    def retry(self, watch: Watch) -> None:
        """Give back what a live incarnation has reserved but no longer knows, or has run for too
        long. What is wrong with one hinders no other. Raises: redis errors.
        """
        faults: list[Exception] = []
        for zombie in self._finder.find(watch.look):
            try:
                _give_back(watch.client, zombie)
            except redis.exceptions.RedisError as error:
                if passes(error):
                    raise
                faults.append(error)
        if faults:
            raise faults[0]


def _give_back(client: BrokerClient, zombie: Zombie) -> None:
    holder = (client.prefix, zombie.node_id, zombie.incarnation)
    terms = (1, client.settings.hive_max_retries, zombie.reason)
    taken = reservation(zombie.publish_id, zombie.reserved_at)
    if client.run(steps.GIVE_BACK, (), (*holder, *terms, taken)):
        log.warning(
            "zombie_retried",
            task_id=zombie.task_id,
            node_id=zombie.node_id,
            reason=zombie.reason,
        )
