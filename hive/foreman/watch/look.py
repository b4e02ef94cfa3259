"""The watchdog's look at all nodes: one script, whose answer has only what is suspicious."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient
from hive.broker.link.scripts import Script

_UNIT = "\x1f"

LOOK = Script("hive.foreman.watch", "look", include=(LIBRARY,))

PLACED_WAIT_MS = 1000
"""How long something may wait at the node where it was placed."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A reservation of a living incarnation that may be a zombie. Equal ones are the same run.

    reserved_at, beat: ms; `beat` is the last one of the incarnation. unknown: that beat did not
    tell of it, though it came later; else it is told of, and has run for long.
    limit: the hard time limit in seconds, 0 for none, where only the worker knows it.
    """

    publish_id: str
    node_id: str
    incarnation: str
    reserved_at: int
    beat: int = field(compare=False)
    unknown: bool = field(compare=False)
    limit: float | None = field(compare=False)


@dataclass(frozen=True, slots=True)
class Look:
    """How all nodes were at one instant. Times are in ms of the broker's clock.

    now: that instant. newest_beat: the newest of all beats, 0 where there is none. silent: the
    incarnations whose last beat is older than a death takes. waiting: the nodes where something has
    been placed for too long. suspects: what may be zombies.
    """

    now: int
    newest_beat: int
    silent: tuple[str, ...]
    waiting: tuple[str, ...] = ()
    suspects: tuple[Suspect, ...] = ()


def look(client: BrokerClient) -> Look:
    """Look once: one round trip, however many nodes there are. Raises: redis errors."""
    settings = client.settings
    silence, long = int(settings.dead_after * 1000), int(settings.hive_zombie_task_timeout * 1000)
    reply = client.run(LOOK, (), (client.prefix, silence, PLACED_WAIT_MS, long))
    now, newest, silent, waiting, suspects = reply
    read = tuple(filter(None, map(_suspect, suspects)))
    return Look(int(now), int(newest), _texts(silent), _texts(waiting), read)


def _texts(raws: list[bytes]) -> tuple[str, ...]:
    return tuple(raw.decode(errors="replace") for raw in raws)


def _suspect(row: bytes) -> Suspect | None:
    """None for what stands in a row that Hive did not write: it hinders no other."""
    try:
        publish_id, incarnation, reserved_at, beat, unknown, limit = row.decode().rsplit(_UNIT, 5)
        times = int(reserved_at), int(float(beat))
    except ValueError:
        return None
    node_id = incarnation.rpartition("/")[0]
    return Suspect(publish_id, node_id, incarnation, *times, unknown == "1", _seconds(limit))


def _seconds(told: str) -> float | None:
    """A limit out of a beat's line; None for what is none."""
    try:
        seconds = float(told)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None
