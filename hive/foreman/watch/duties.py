"""The table of duties: what Hive's watchdog does, and what an application adds to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hive.broker.link.client import BrokerClient
from hive.errors import InvalidInputError
from hive.foreman.watch.account import AccountWatch
from hive.foreman.watch.duty import Duty, refuse_twice
from hive.foreman.watch.restore import Restorer, tell_dead_letters, unplace
from hive.foreman.watch.rooms import OnRestored, recoveries_of
from hive.foreman.watch.sweep import Sweeper
from hive.foreman.watch.zombies import ZombieHunt

OWN = ("restore", "unplace", "zombies", "dead_letters", "account", "sweep")
"""The names of Hive's own duties."""


def with_more(known: Iterable[Duty], more: Iterable[Duty]) -> tuple[Duty, ...]:
    """What an application adds, and what it adds now.

    It is checked where it is added: a watchdog that could not begin would leave a cluster without.

    Raises: InvalidInputError for what is no duty, and for one with the name of another.
    """
    duties = (*known, *more)
    for duty in duties:
        if not isinstance(duty, Duty):
            raise InvalidInputError(
                f"duties are objects of hive.foreman.watch.duty.Duty, not {duty!r}."
            )
    refuse_twice([*OWN, *(duty.name for duty in duties)])
    return duties


def duties_of(app: Any, client: BrokerClient, on_restored: OnRestored | None = None) -> list[Duty]:
    """All duties of an application's watchdog, in the order in which they are done.

    client: the watchdog's own connection. on_restored: a hook besides those of the rooms.
    """
    rooms = recoveries_of(app)
    hooks = [room.on_restored for room in rooms] + [on_restored]
    restorer = Restorer(tuple(hook for hook in hooks if hook is not None))
    account = AccountWatch(client)
    sweeper = Sweeper(client, rows=tuple(rows for room in rooms for rows in room.rows))
    own = [
        Duty("restore", restorer.restore),
        Duty("unplace", unplace),
        Duty("zombies", ZombieHunt(client).retry),
        Duty("dead_letters", tell_dead_letters),
        Duty("account", lambda _: account.look(), witness=lambda _: account.witness()),
        Duty("sweep", lambda _: sweeper.sweep()),
    ]
    return [*own, *getattr(app, "hive_duties", ())]
