"""Reading the channel's packed entries; lua/lib.lua tells their form, and writes them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from celery.app.task import Context
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from hive.broker.link.coding import body_of
from hive.broker.link.priorities import DEFAULT

UNREADABLE = "it cannot be read: "
"""How the reason of a dead letter begins that nobody could read; none of its deaths is one."""

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
        return cls._of(publish_id, packed, _message)

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
        return _mapping(self.message.get("headers"))

    @property
    def task_name(self) -> str:
        """The task's; "" where it cannot be read."""
        name = self.headers.get("task")
        if name is None and self.message:  # in Celery's protocol 1 the body tells it
            with contextlib.suppress(ValueError):
                body = body_of(self.message)
                name = body.get("task") if isinstance(body, dict) else None
        return str(name or "")

    def body(self) -> Body:
        """The task's args, kwargs and embedded canvas (callbacks, errbacks, chain, chord).

        Raises: ValueError for a body that nobody can read, or that is no task's.
        """
        return task_body(body_of(self.message))

    def context(self) -> Context:
        """The request that a worker would have made of it, by which its end can be stored.

        Of a body that nobody can read it has nothing.
        """
        try:
            body = self.body()
        except ValueError:
            body = Body([], {}, {})
        return context(self.headers, _mapping(self.message.get("properties")), body)


class Body(NamedTuple):
    """What is in the body of a task's message."""

    args: list[Any]
    kwargs: dict[str, Any]
    embed: dict[str, Any]
    """The embedded canvas: callbacks, errbacks, chain, chord."""


def task_body(body: Any) -> Body:
    """What a decoded body says, in either of Celery's protocols.

    Raises: ValueError for what is no task's.
    """
    embed: Any
    if isinstance(body, dict):
        args, kwargs = body.get("args", ()), body.get("kwargs", {})
        embed = {name: body.get(name) for name in ("callbacks", "errbacks", "chord")}
    elif isinstance(body, list | tuple) and len(body) == 3:
        args, kwargs, embed = body
    else:
        raise ValueError("its body is not that of a task")
    if not isinstance(args, list | tuple):
        raise ValueError("the arguments in its body are no list")
    if not isinstance(kwargs, dict) or not isinstance(embed or {}, dict):
        raise ValueError("the named arguments in its body are no object")
    return Body(list(args), dict(kwargs), dict(embed or {}))


def context(headers: Mapping[str, Any], properties: Mapping[str, Any], body: Body) -> Context:
    """The request that a worker makes of a message."""
    return Context(
        {
            **headers,
            **body.embed,
            "args": body.args,
            "kwargs": body.kwargs,
            "delivery_info": _mapping(properties.get("delivery_info")),
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
        }
    )


def _message(envelope: bytes) -> dict[str, Any]:
    """Raises: ValueError for what is no message."""
    message = loads(bytes_to_str(envelope))
    if not isinstance(message, dict):
        raise ValueError("it is no message")
    return message


def _mapping(value: object) -> dict[str, Any]:
    """A part of a message; empty where a stranger put something else there."""
    return dict(value) if isinstance(value, dict) else {}
