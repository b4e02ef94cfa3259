"""The table of duties: what Hive's watchdog does, and what an application adds to it."""

from __future__ import annotations

from typing import Any

from hive.broker.link.client import BrokerClient
from hive.foreman.watch.account import AccountWatch
from hive.foreman.watch.duty import Duty
from hive.foreman.watch.restore import Restorer, tell_dead_letters, unplace
from hive.foreman.watch.rooms import OnRestored, recoveries_of
from hive.foreman.watch.sweep import Sweeper
from hive.foreman.watch.zombies import ZombieHunt


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
