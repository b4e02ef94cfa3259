"""What higher rooms bring to recovery, so that the watchdog need not know them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hive.broker.ledger.sweep import Rows
from hive.broker.link.client import BrokerClient

OnRestored = Callable[[BrokerClient, list[str]], object]
"""Called with the watchdog's connection, and the publish ids of what an incarnation held when it
died, or fell silent, once they are back in their queues.
"""


@dataclass(frozen=True, slots=True)
class Recovery:
    """One room's part in recovery.

    on_restored: what the room does when an incarnation has died, or is silent; None: nothing.
    rows: hashes of the room's own that have a row for each message; the sweep clears the rows of
        messages that are done.
    """

    on_restored: OnRestored | None = None
    rows: tuple[Rows, ...] = ()


def recoveries_of(app: Any) -> tuple[Recovery, ...]:
    """What the rooms brought to an application when Hive was installed in it."""
    brought: tuple[Recovery, ...] = getattr(app, "hive_recoveries", ())
    return brought


def hooks_of(app: Any, also: OnRestored | None = None) -> tuple[OnRestored, ...]:
    """What the rooms want to be told of, and one more hook."""
    hooks = [room.on_restored for room in recoveries_of(app)] + [also]
    return tuple(hook for hook in hooks if hook is not None)
