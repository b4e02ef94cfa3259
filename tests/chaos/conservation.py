"""A look at all that lies in a broker: every accepted,
unfinished message is in exactly one place.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hive.broker.link.client import BrokerClient


@dataclass
class Sight:
    """What was seen at one instant, by publish id."""

    entries: dict[str, bytes]
    counters: Counter[str]
    places: dict[str, list[str]] = field(default_factory=dict)
    """Publish id → the keys in which it lies."""
    plain: int = 0
    """Messages of plain Celery producers that are no entries yet."""
    ordered: list[str] = field(default_factory=list)
    """The dead letters' order by time."""

    def check(self) -> None:
        """Raises: AssertionError where an entry is in no place or in two, or the counters do not
        add up.
        """
        assert self.places.keys() == self.entries.keys(), (
            "each entry is somewhere, and nothing else is"
        )
        assert not {name: keys for name, keys in self.places.items() if len(keys) != 1}, (
            "nothing is in two places"
        )
        assert sorted(self.ordered) == sorted(self.where("venom:dead")), "each in its order"
        assert self.counters["accepted"] == len(self.entries) + self.counters["done"]
        ended = sum(
            self.counters[name]
            for name in ("completed", "failed", "retried", "revoked", "dropped", "purged")
        )
        assert self.counters["done"] == ended

    def where(self, place: str) -> list[str]:
        """The ids in the keys whose name has that part."""
        return [name for name, keys in self.places.items() if any(place in key for key in keys)]


def look(client: BrokerClient) -> Sight:
    """Read everything; nobody else may be at work."""
    redis = client.redis
    counted = Counter(
        {name.decode(): int(value) for name, value in redis.hgetall(client.key("counters")).items()}
    )
    sight = Sight(
        {name.decode(): value for name, value in redis.hgetall(client.key("entries")).items()},
        counted,
    )
    ordered = redis.zrange(client.key("dead:order"), 0, -1)
    sight.ordered = [publish_id.decode() for publish_id in ordered]
    for raw in redis.keys(f"{client.prefix}*"):
        key = raw.decode()
        for element in _elements(
            client, key.removeprefix(client.prefix), redis.type(raw).decode(), raw
        ):
            if element.startswith("{"):
                sight.plain += 1
            else:
                sight.places.setdefault(element, []).append(key)
    return sight


def _elements(client: BrokerClient, name: str, kind: str, raw: bytes) -> list[str]:
    redis = client.redis
    if (
        kind == "list"
        and not name.startswith(
            ("venom:wake:", "venom:job:", "venom:aside", "celery-taskset-meta-")
        )
        and not name.endswith(".pidbox")
    ):
        found = redis.lrange(raw, 0, -1)
    elif kind == "zset" and (name.startswith("venom:placed:") or name == "venom:delayed"):
        found = redis.zrange(raw, 0, -1)
    elif kind == "hash" and (name.startswith("venom:reserved:") or name == "venom:dead"):
        found = redis.hkeys(raw)
    else:
        found = []
    return [element.decode() for element in found]
