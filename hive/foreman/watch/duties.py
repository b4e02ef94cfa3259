"""The table of duties: what Hive's watchdog does, and what an application adds to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hive.broker.ledger.sweep import Rows
from hive.broker.link.client import BrokerClient
from hive.errors import InvalidInputError
from hive.foreman.watch.account import AccountWatch
from hive.foreman.watch.dead_letters import Bound, Teller
from hive.foreman.watch.duty import Duty, refuse_twice
from hive.foreman.watch.restore import Restorer, unplace
from hive.foreman.watch.rooms import OnRestored, hooks_of, recoveries_of
from hive.foreman.watch.sweep import Sweeper
from hive.foreman.watch.zombies import ZombieHunt


class Parts(NamedTuple):
    """What Hive's own duties are made of.

    client: the watchdog's own connection. hooks: called when what a dead or absent incarnation held
    is home.
    rows: what rooms above the broker have a row of for each message.
    """

    client: BrokerClient
    hooks: tuple[OnRestored, ...]
    rows: tuple[Rows, ...]


def _account(name: str, parts: Parts) -> Duty:
    account = AccountWatch(parts.client)
    return Duty(name, lambda _: account.look(), witness=lambda _: account.witness())


def _sweep(name: str, parts: Parts) -> Duty:
    sweeper = Sweeper(parts.client, rows=parts.rows)
    return Duty(name, lambda _: sweeper.sweep())


OWN: dict[str, Callable[[str, Parts], Duty]] = {
    "restore": lambda name, parts: Duty(name, Restorer(parts.hooks).restore),
    "unplace": lambda name, _: Duty(name, unplace),
    "zombies": lambda name, parts: Duty(name, ZombieHunt(parts.client).retry),
    "dead_letters": lambda name, _: Duty(name, Teller().tell),
    "dead_letters.bound": lambda name, _: Duty(name, Bound().keep),
    "account": _account,
    "sweep": _sweep,
}
"""Hive's own duties, in the order in which they are done, each made anew for a watchdog."""


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
    rows = tuple(rows for room in recoveries_of(app) for rows in room.rows)
    parts = Parts(client, hooks_of(app, on_restored), rows)
    own = [make(name, parts) for name, make in OWN.items()]
    return [*own, *getattr(app, "hive_duties", ())]
