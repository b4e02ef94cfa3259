"""Reading the channel's packed entries; lua/lib.lua tells their form, and writes them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.app.task import Context
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from hive.broker.link.priorities import DEFAULT

_UNIT = b"\x1f"
_LATEST = 10**14
"""Milliseconds since 1970 beyond which no calendar has a day."""


def reservation(publish_id: str, reserved: int) -> str:
    """A message and the moment (ms) at which it was reserved, as lua/give_back.lua reads them.

    When it has been reserved again since, that is another reservation.
    """
    return f"{publish_id}{_UNIT.decode()}{reserved}"


@dataclass(frozen=True, slots=True)
class Death:
    """One delivery that died: when, on which node, and of what.

    `at` is in unix seconds by the broker's clock.
    """

    at: float
    node: str
    reason: str


def _history(past: bytes) -> tuple[Death, ...]:
    """The deaths of an entry's history; none of one that cannot be read."""
    try:
        return tuple(
            Death(float(ms) / 1000, str(node), str(reason))
            for ms, node, reason in json.loads(past.decode(errors="replace") or "[]")
            if 0 <= ms < _LATEST
        )
    except (ValueError, TypeError):
        return ()


@dataclass(frozen=True, slots=True)
class Entry:
    """An accepted, unfinished message.

    `created` is in unix seconds by the broker's clock; `deaths` counts deliveries that died.

    `history` has its last ten deaths, also those before it was sent again as a dead letter.
    """

    publish_id: str
    deaths: int
    home: str
    index: int
    pin: str
    task_id: str
    created: float
    message: dict[str, Any]
    history: tuple[Death, ...]

    @classmethod
    def unpack(cls, publish_id: str, packed: bytes) -> Entry:
        """Read an entry.

        Raises: ValueError when a producer other than Hive sent what is no JSON message, and for a
            row that is no entry.
        """
        return cls._of(publish_id, packed, lambda envelope: loads(bytes_to_str(envelope)))

    @classmethod
    def head(cls, publish_id: str, packed: bytes) -> Entry:
        """An entry without its message, which perhaps nobody can read; of a row that is no entry,
        nothing.
        """
        try:
            return cls._of(publish_id, packed, lambda _: {})
        except ValueError:
            return cls(publish_id, 0, "", DEFAULT, "", "", 0.0, {}, ())

    @classmethod
    def _of(cls, publish_id: str, packed: bytes, read: Callable[[bytes], dict[str, Any]]) -> Entry:
        head, home, index, pin, task_id, created, envelope = packed.split(_UNIT, 6)
        message = read(envelope)
        deaths, begins, past = head.partition(b"[")
        return cls(
            publish_id,
            int(deaths),
            home.decode(errors="replace"),
            int(index),
            pin.decode(errors="replace"),
            task_id.decode(errors="replace"),
            min(int(created), _LATEST) / 1000,
            message,
            _history(begins + past),
        )

    @property
    def headers(self) -> dict[str, Any]:
        return dict(self.message.get("headers") or {})

    @property
    def task_name(self) -> str:
        return str(self.headers.get("task", ""))

    def body(self) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        """The task's args, kwargs and embedded canvas (callbacks, errbacks, chain, chord)."""
        raw = self.message["body"]
        if (self.message.get("properties") or {}).get("body_encoding") == "base64":
            raw = base64.b64decode(raw).decode()
        args, kwargs, embed = loads(raw)
        return list(args), dict(kwargs), dict(embed or {})

    def context(self) -> Context:
        """The request that a worker would have made of it, by which its end can be stored."""
        args, kwargs, embed = self.body()
        properties = self.message.get("properties") or {}
        return Context(
            {
                **self.headers,
                **embed,
                "args": args,
                "kwargs": kwargs,
                "delivery_info": properties.get("delivery_info") or {},
                "reply_to": properties.get("reply_to"),
                "correlation_id": properties.get("correlation_id"),
            }
        )
