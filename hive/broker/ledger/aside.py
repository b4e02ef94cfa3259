"""What was put aside, since nobody could read it: `venom:aside`, a bounded list."""

from __future__ import annotations

import json

import redis
from pydantic import BaseModel, ConfigDict

from hive.broker.link.client import BrokerClient
from hive.json_text import sayable

_SHOWN = 80


class PutAside(BaseModel):
    """One fault: a key of another type than Hive's, or a row in one that it cannot read.

    row: the row's head; "" where it is the key itself.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    row: str
    reason: str

    @property
    def sentence(self) -> str:
        """What it is, for people."""
        row = f", {self.row[:_SHOWN]!a}" if self.row else ""
        return f"{self.key!a:.200}{row}: {self.reason}"


def put_aside(client: BrokerClient) -> list[PutAside]:
    """What was put aside, the newest first, at most 100.

    Blocks for one round trip. Raises: redis errors.
    """
    key = client.key("aside")
    try:
        noted = client.redis.lrange(key, 0, -1)
    except redis.exceptions.ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return [PutAside(key=key, row="", reason="it is no list; the next note replaces it")]
    return [_read(key, raw.decode(errors="replace")) for raw in noted]


def naming_its_key(client: BrokerClient, error: BaseException) -> BaseException:
    """The same error, or one that says which key is of another type than Hive's.

    Raises: redis errors.
    """
    if not (isinstance(error, redis.exceptions.ResponseError) and _NAMELESS in str(error)):
        return error
    with client.redis.pipeline(transaction=False) as pipe:
        for name in _KINDS:
            pipe.type(client.key(name))
        found = dict(zip(_KINDS, pipe.execute(), strict=True))
    for name, kind in found.items():
        if kind.decode() not in (_KINDS[name], "none"):
            return redis.exceptions.ResponseError(
                f"WRONGTYPE The key {client.key(name)} is a {kind.decode()}, which Hive does not "
                "store there: look what it is, then delete it; Hive goes on then"
            )
    return error


_NAMELESS = "WRONGTYPE Operation against a key"
_KINDS = {
    "entries": "hash",
    "ids": "hash",
    "delayed": "zset",
    "dead": "hash",
    "untold": "set",
    "epochs": "hash",
    "beats": "zset",
    "held": "hash",
    "requirements": "hash",
    "pullers": "hash",
    "zombies": "hash",
    "nodes:static": "hash",
    "nodes:dynamic": "hash",
    "nodes:versions": "zset",
    "nodes:version": "string",
    "nodes:epoch": "string",
}
"""The keys that there are once, and what each is."""


def _read(key: str, noted: str) -> PutAside:
    try:
        where, row, reason = (sayable(str(part)) for part in json.loads(noted))
    except (ValueError, TypeError):
        return PutAside(key=key, row=noted[:200], reason="it is no note of Hive's")
    return PutAside(key=where, row=row, reason=reason)
