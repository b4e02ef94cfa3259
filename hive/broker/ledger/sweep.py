"""One step of the sweep: some of what nobody owns any more is cleared away, never accepted work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hive.broker.channel.steps import LIBRARY
from hive.broker.link.client import BrokerClient
from hive.broker.link.scripts import Script

SWEEP = Script("hive.broker.ledger", "sweep", include=(LIBRARY,))
REQUIREMENTS = Script("hive.broker.ledger", "sweep_requirements", include=(LIBRARY,))


@dataclass(frozen=True, slots=True)
class Rows:
    """A hash with a row for each message; a row whose message is done belongs to nobody.

    name: of the hash, below `venom:`. by: whether the row's field or its value is the publish id.
    beside: a set of the same publish ids, "" for none.
    """

    name: str
    by: Literal["field", "value"] = "field"
    beside: str = ""


OWN = (Rows("ids", by="value"), Rows("dead", beside="untold"))
"""The rows of the channel and of the ledger."""


def sweep_some(
    client: BrokerClient, keys: Any, rows: Rows, row: Any, amount: int
) -> tuple[Any, Any, int]:
    """Sweep about `amount` keys from the cursor `keys` on, and as many of the rows from `row` on.

    Returns: the two cursors to go on with, "0" at the end, and how much was cleared away.
    Raises: redis errors.
    """
    arguments = (client.prefix, amount, keys, rows.name, row, rows.by, rows.beside)
    keys, row, swept = client.run(SWEEP, (), arguments)
    return keys, row, int(swept)


def sweep_requirements(
    client: BrokerClient, idle_ms: int, survey_began: str
) -> tuple[int, bool, int]:
    """Forget requirements that have been idle for long and that no message has.

    survey_began: ms at which a survey of all entries began that is over; "" for none.

    Returns: the broker's clock (ms), whether some wait for a survey, and how many were forgotten.
    Raises: redis errors.
    """
    arguments = (client.prefix, idle_ms, survey_began)
    now, due, forgotten = client.run(REQUIREMENTS, (), arguments)
    return int(now), bool(due), int(forgotten)
