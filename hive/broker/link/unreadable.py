"""What a reader of the broker passes over: another release, or a stranger, wrote it.

It costs the row that it is, and a line in the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import redis

from hive.broker.link.client import BrokerClient
from hive.logs import get_logger

log = get_logger(__name__)

SAID_AGAIN = 600.0
"""Seconds after which the log tells again of a row that is still there."""
_REMEMBERED = 1000
_SHOWN = 200


_said: WeakKeyDictionary[BrokerClient, dict[tuple[str, str], float]] = WeakKeyDictionary()
"""By client: of which row of which key the log was told, and when."""


def skip(client: BrokerClient, key: str, row: str, why: object) -> None:
    """Say in the log that a row is passed over, and why; of each row once in ten minutes."""
    said, now = _said.setdefault(client, {}), time.monotonic()
    if now - said.get((key, row), -SAID_AGAIN) < SAID_AGAIN:
        return
    if len(said) >= _REMEMBERED:
        said.clear()
    said[key, row] = now
    reason = " ".join(str(why)[:_SHOWN].split())
    log.warning("row_unreadable", key=key, row=row[:_SHOWN], why=reason)


def ask(client: BrokerClient, read: Callable[..., Any], key: str, *arguments: Any) -> Any:
    """What a method of redis-py's says about a key; None, with a line in the log, where the key is
    of another type than Hive's. Raises: redis errors.
    """
    try:
        return read(key, *arguments)
    except redis.exceptions.ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        skip(client, key, "", "it is of another type than Hive's")
        return None
