"""What rooms above this one bring to recovery: the watchdog knows none of them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hive.broker.ledger.sweep import Rows
from hive.broker.link.client import BrokerClient

OnRestored = Callable[[BrokerClient, list[str]], object]


@dataclass(frozen=True, slots=True)
class Recovery:
    """One room's part in recovery.

    on_restored: called with the publish ids of what an incarnation held when it died, after they
        are back in their queues.
    rows: hashes of the room's own with a row for each message, which the sweep clears of those that
        are done.
    """

    on_restored: OnRestored | None = None
    rows: tuple[Rows, ...] = ()


def recoveries_of(app: Any) -> tuple[Recovery, ...]:
    """What the rooms brought to an application when Hive was installed in it."""
    brought: tuple[Recovery, ...] = getattr(app, "hive_recoveries", ())
    return brought
