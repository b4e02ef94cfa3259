"""Finding zombies: reserved tasks that a living incarnation does not know, or has run too long."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass

import redis

from hive.broker.channel import steps
from hive.broker.channel.entries import Entry, reservation
from hive.broker.channel.incarnation import UNREAD
from hive.broker.link.client import BrokerClient
from hive.foreman.watch.duty import Watch
from hive.logs import get_logger

log = get_logger(__name__)

GRACE_SECONDS = 30.0
REMEMBERED_SECONDS = 3600


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
    """Compares reservations with what each incarnation's heartbeats say it holds.

    A reservation counts as unknown once it was missing from two successive beats, unless the worker
    has not read an answer of the broker yet. A run counts as too long after the larger of
    HIVE_ZOMBIE_TASK_TIMEOUT and the task's own hard limit plus 30 s; one whose limit was lifted
    explicitly never does.
    """

    def __init__(self, client: BrokerClient) -> None:
        self._client = client
        self._missing: dict[str, float] = {}

    def find(self) -> list[Zombie]:
        """Zombies of all nodes at this moment; also written to `venom:zombies` for people to see.

        Raises redis errors.
        """
        client = self._client
        beats = {
            name.decode(): score
            for name, score in client.redis.zrange(client.key("beats"), 0, -1, withscores=True)
        }
        held = {
            name.decode(): _limits(line.decode())
            for name, line in client.redis.hgetall(client.key("held")).items()
        }
        now = client.now_ms()
        living = now - client.settings.dead_after * 1000
        found, missing = [], {}
        for node_id in {incarnation.rpartition("/")[0] for incarnation in beats}:
            for raw, value in client.redis.hgetall(client.key("reserved", node_id)).items():
                publish_id = raw.decode()
                incarnation, _, stamp = value.decode().partition("|")
                reserved_at = int(stamp.partition("|")[0])
                beat = beats.get(incarnation)
                # What a silent incarnation has is brought home once it counts as dead.
                if beat is None or beat < living or incarnation not in held:
                    continue
                unknown = beat > reserved_at and not {publish_id, UNREAD} & held[incarnation].keys()
                if unknown:
                    first = self._missing.get(publish_id, beat)
                    missing[publish_id] = first
                lost = unknown and beat > missing[publish_id]
                reason = (
                    "its node does not know it"
                    if lost
                    else self._overdue(
                        publish_id, now - reserved_at, held[incarnation].get(publish_id)
                    )
                )
                if reason:
                    found.append(
                        Zombie(
                            publish_id,
                            self._task_id(publish_id),
                            node_id,
                            incarnation,
                            reserved_at,
                            reason,
                        )
                    )
        self._missing = missing
        self._record(found)
        return found

    def _overdue(self, publish_id: str, running_ms: int, told: float | None) -> str:
        settings = self._client.settings
        if running_ms < settings.hive_zombie_task_timeout * 1000:
            return ""
        entry = self._entry(publish_id)
        if entry is None:
            return ""
        hard, _ = entry.headers.get("timelimit") or (None, None)
        hard = told if hard is None else hard
        if hard is not None and float(hard) <= 0:
            return ""
        limit = max(
            settings.hive_zombie_task_timeout,
            float(hard or settings.hive_task_timeout) + GRACE_SECONDS,
        )
        return f"it ran longer than {limit:g} s" if running_ms > limit * 1000 else ""

    def _entry(self, publish_id: str) -> Entry | None:
        packed = self._client.redis.hget(self._client.key("entries"), publish_id)
        try:
            return Entry.unpack(publish_id, packed) if packed is not None else None
        except ValueError:  # such a message never starts, and must not stop the watchdog
            return None

    def _task_id(self, publish_id: str) -> str:
        entry = self._entry(publish_id)
        return entry.task_id if entry is not None else ""

    def _record(self, found: list[Zombie]) -> None:
        if not found:
            return
        key = self._client.key("zombies")
        values = {
            zombie.task_id: json.dumps(
                {"node": zombie.node_id, "reason": zombie.reason, "at": time.time()}
            )
            for zombie in found
        }
        # This is only for people: a server without memory must not keep the watchdog from its work.
        with contextlib.suppress(redis.exceptions.OutOfMemoryError):
            self._client.redis.hset(key, mapping=values)
            self._client.redis.expire(key, REMEMBERED_SECONDS)


def _limits(line: str) -> dict[str, float | None]:
    """The publish ids in a heartbeat's line, each with its hard limit (Incarnation.held_line)."""
    parts = (part.partition(":") for part in line.split())
    return {publish_id: float(limit) if limit else None for publish_id, _, limit in parts}


class ZombieHunt:
    """The duty: what is found is given back, counted as a death."""

    def __init__(self, client: BrokerClient) -> None:
        self._finder = ZombieFinder(client)

    def retry(self, watch: Watch) -> None:
        """Give back what a live incarnation has reserved but no longer knows, or has run for too
        long. Raises: redis errors.
        """
        client = watch.client
        retries = client.settings.hive_max_retries
        for zombie in self._finder.find():
            holder = (client.prefix, zombie.node_id, zombie.incarnation)
            taken = reservation(zombie.publish_id, zombie.reserved_at)
            if client.run(steps.GIVE_BACK, (), (*holder, 1, retries, zombie.reason, taken)):
                log.warning(
                    "zombie_retried",
                    task_id=zombie.task_id,
                    node_id=zombie.node_id,
                    reason=zombie.reason,
                )
