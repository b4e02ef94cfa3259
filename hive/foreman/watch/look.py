"""The watchdog's look at all incarnations: one script, whose answer has only what is suspicious."""

from __future__ import annotations

from dataclasses import dataclass

from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient
from hive.broker.link.scripts import Script

LOOK = Script("hive.foreman.watch", "look", include=(LIBRARY,))


@dataclass(frozen=True, slots=True)
class Look:
    """How all incarnations were at one instant. Times are in ms of the broker's clock.

    now: that instant. newest_beat: the newest of all beats, 0 where there is none. silent: the
    incarnations whose last beat is older than a death takes.
    """

    now: int
    newest_beat: int
    silent: tuple[str, ...]


def look(client: BrokerClient) -> Look:
    """Look once: one round trip, however many nodes there are. Raises: redis errors."""
    silence = int(client.settings.dead_after * 1000)
    now, newest, silent = client.run(LOOK, (), (client.prefix, silence))
    return Look(int(now), int(newest), tuple(raw.decode() for raw in silent))
